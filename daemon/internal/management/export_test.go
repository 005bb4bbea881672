package management

// ParseTime reads since and until.
var ParseTime = parseTime
