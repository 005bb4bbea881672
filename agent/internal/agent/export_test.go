package agent

// AskWhenRefused is the part that makes the daemon ask the hub.
var AskWhenRefused = askWhenRefused
