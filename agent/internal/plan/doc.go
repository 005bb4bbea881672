// Package plan decides what to do. From the wanted deployment, the modules as
// they are and the saved restart state it computes a list of commands, by pure
// functions: same input, same plan, and an empty plan when nothing is to be done
// (spec edgeagent 6.3, 6.5, 6.6).
package plan
