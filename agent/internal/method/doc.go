// Package method answers the direct methods of $edgeAgent (spec edgeagent 9). A
// method that is not among them is refused by name, with the list of those that are.
// Uploads are tasks: the answer comes at once, Handler.Run does the work, and
// GetTaskStatus tells what became of it.
package method
