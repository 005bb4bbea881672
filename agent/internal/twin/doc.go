// Package twin keeps the agent's copy of the $edgeAgent twin: the desired section,
// kept current by merging pushed changes and by pulling the whole twin when a
// change was missed, and the reported section as the cloud has it, so that reports
// travel as differences (spec edgeagent 2.10, 5.3, 6.1).
package twin
