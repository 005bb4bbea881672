package local

// Deployment is deployment.
var Deployment = deployment
