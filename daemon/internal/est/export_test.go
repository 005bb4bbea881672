package est

// ParseCerts reads a certs-only message.
var ParseCerts = parseCerts
