// Package manifest reads the desired properties of $edgeAgent, the deployment
// manifest, into a Deployment that the rest of the agent can trust: every rule of
// spec edgeagent 2 has been checked, every default is filled in, chunks are
// joined, $upstream is replaced, and createOptions are in canonical form so that
// equal options are equal strings.
//
// Property names and enumerations match in any letter case, because the manifests
// in the field were written against a parser that does so. A refused manifest
// gives an *Error with the status code that the agent must report (400, 412 or
// 417) and the place in the document.
package manifest
