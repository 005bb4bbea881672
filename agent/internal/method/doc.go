// Package method answers the direct methods of $edgeAgent (spec edgeagent 9):
// ping, RestartModule and GetModuleLogs. A method that is not among them is
// refused by name, with the list of those that are.
package method
