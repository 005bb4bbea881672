// Package quality collects and sends runtime quality telemetry (spec edgeagent 11):
// some figures of edgeHub and edgeAgent, without what tells devices and modules
// apart. It is off unless the operator turns it on; the agent does not link it to
// anything else.
//
//	scrape (hourly) -> Parse -> select, anonymise, sum up -> Store
//	Store -> condense -> Encode -> message (daily)
//
// What is stored is what is sent: nothing leaves the scrape that may not leave the
// device, and Series shows it before it goes.
package quality
