package image

// ParseLdd reads what ldd prints.
var ParseLdd = parseLdd
