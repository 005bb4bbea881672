package image

// Programs lists what is shipped as images.
func Programs() []Program {
	return []Program{
		{Name: "edgeagent", Dir: "agent", Package: "./cmd/edgeagent"},
		{Name: "edgehub", Dir: "hub", Package: "./cmd/edgehub",
			Ports: []string{"443/tcp", "5671/tcp", "8883/tcp", "9600/tcp"}},
		{Name: "iothub", Dir: "hub", Package: "./cmd/iothub", Ports: []string{"443/tcp", "5671/tcp", "8883/tcp"}},
		{Name: "temperature-sensor", Dir: "deploy", Package: "./modules/temperature-sensor"},
		{Name: "filter", Dir: "deploy", Package: "./modules/filter"},
	}
}
