// Package blob uploads what a function writes to a URL that carries its own
// authorization: a shared access signature of Azure storage, or any other target
// that takes an HTTP PUT. Content is streamed: at most one block is in memory,
// whatever the size of the whole.
//
// The URL is a secret. No error of this package holds it, or a part of it.
package blob
