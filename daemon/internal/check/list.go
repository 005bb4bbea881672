package check

import (
	"context"
	"time"
)

// List returns all checks, in order. Ids are those of the original and mean the
// same, as far as there is the same to look at; cni-plugins and
// edge-ca-certificate-expiry are ours.
func List() []Check {
	well := func(id, group, name, part string) Check {
		return Check{ID: id, Group: group, Name: name, run: wellFormed(part), part: part}
	}
	on := func(id, group, name string, run func(context.Context, *state) Outcome) Check {
		return Check{ID: id, Group: group, Name: name, run: run}
	}
	return []Check{
		well("keyd-config-well-formed", Identity, "configuration of keys is well-formed", partKeys),
		well("certd-config-well-formed", Identity, "configuration of certificates is well-formed", partCerts),
		well("tpmd-config-well-formed", Identity, "configuration of the TPM is well-formed", partTPM),
		well("identityd-config-well-formed", Identity, "configuration of the device's identity is well-formed", partIdentity),
		on("configs-up-to-date", Identity, "configuration file is applied", applied),
		on("hostname", Identity, "hostname of the configuration is correct", hostname),
		on("aziot-version", Identity, "edgectl is of the expected version", ownVersion),
		on("host-local-time", Identity, "clock of the device is right", localTime),
		on("identity-certificate-expiry", Identity, "identity certificate is valid", identityCertificate),
		on("est-identity-and-bootstrap-certificate-expiry", Identity, "certificates for the EST server are valid", estCertificates),
		on("local-ca-certificate-expiry", Identity, "local CA certificate is valid", localCA),
		on("edge-ca-certificate-expiry", Identity, "edge CA certificate is valid", edgeCA),
		on("certs-preloaded", Identity, "certificates of the configuration can be read", preloaded),
		on("keyd-running", Identity, "daemon holds its keys", keysRunning),
		on("certd-running", Identity, "daemon hands out certificates", certsRunning),
		on("tpmd-running", Identity, "TPM answers", tpmRunning),
		on("identityd-running", Identity, "daemon knows the device", identityRunning),
		on("certs-read", Identity, "trust bundle can be read and is valid", trustBundle),
		on("key-pairs-read", Identity, "keys of certificates can be read", keyFiles),
		on("est-server-https", Identity, "host can connect to the EST server", estServer),
		on("certs-match-private-keys", Identity, "certificates match their keys", pairs),

		well(configID, Configuration, "configuration of the daemon is well-formed", partEdged),
		on("config-up-to-date", Configuration, "daemon runs with the configuration as it is now", configUpToDate),
		on("container-engine-uri", Configuration, "containerd answers", engine),
		on("cni-plugins", Configuration, "network plugins are installed", plugins),
		on("parent_hostname", Configuration, "parent device is named rightly", parentName),
		on("container-resolve-parent-hostname", Configuration, "modules can resolve the parent device", parentResolves),
		on("connect-management-uri", Configuration, "daemon answers at its management socket", management),
		on("aziot-edge-version", Configuration, "daemon is of the expected version", daemonVersion),
		on("container-local-time", Configuration, "clock of modules is right", moduleTime),
		on("container-engine-dns", Configuration, "modules have a name server", dns),
		on("container-engine-ipv6", Configuration, "IPv6 of the module network is as configured", ipv6),
		on("container-engine-logrotate", Configuration, "logs of modules are bounded", logRotate),
		on("edge-agent-storage-mounted-from-host", Configuration, "edgeAgent keeps its data on the host", storage("edgeAgent")),
		on("edge-hub-storage-mounted-from-host", Configuration, "edgeHub keeps its messages on the host", storage("edgeHub")),
		on("check-agent-image", Configuration, "image of the agent is pinned", agentImage),
		on("proxy-settings", Configuration, "daemon and agent use the same proxy", proxies),

		on("host-connect-dps-endpoint", Connectivity, "host can connect to the provisioning service", fromHostToDPS),
		on("host-connect-iothub-amqp", Connectivity, "host can connect to the hub at port 5671", fromHost(5671)),
		on("host-connect-iothub-https", Connectivity, "host can connect to the hub at port 443", fromHost(443)),
		on("host-connect-iothub-mqtt", Connectivity, "host can connect to the hub at port 8883", fromHost(8883)),
		on("container-default-connect-upstream-amqp", Connectivity, "default network can connect to the hub at port 5671", fromDefault(5671)),
		on("container-default-connect-upstream-https", Connectivity, "default network can connect to the hub at port 443", fromDefault(443)),
		on("container-default-connect-upstream-mqtt", Connectivity, "default network can connect to the hub at port 8883", fromDefault(8883)),
		on("container-connect-upstream-amqp", Connectivity, "module network can connect to the hub at port 5671", fromModule(5671)),
		on("container-connect-upstream-https", Connectivity, "module network can connect to the hub at port 443", fromModule(443)),
		on("container-connect-upstream-mqtt", Connectivity, "module network can connect to the hub at port 8883", fromModule(8883)),
	}
}

func configUpToDate(ctx context.Context, s *state) Outcome {
	changed, err := s.ConfigChanged()
	if err != nil {
		return failed("configuration file: %v", err)
	}
	up, err := s.Uptime(ctx, *s.cfg)
	if err != nil {
		return skipped("the daemon does not answer")
	}
	if started := s.Now().Add(-up); changed.After(started) {
		return warning("the configuration file was changed at %s, after the daemon was started: restart edged",
			changed.UTC().Format(time.RFC3339))
	}
	return ok()
}

// maxCommonName is the longest name that a certificate can have.
const maxCommonName = 64

func hostname(_ context.Context, s *state) Outcome {
	name := s.cfg.Hostname
	if len(name) > maxCommonName {
		return failed("hostname %q is longer than the %d characters that a certificate's name may have", name, maxCommonName)
	}
	machine, err := s.Hostname()
	if err != nil {
		return failed("name of the machine: %v", err)
	}
	if !sameHost(name, machine) {
		return warning("hostname is %q, the machine's name %q: devices that connect to this one must be able to resolve the former", name, machine)
	}
	return ok()
}

func engine(ctx context.Context, s *state) Outcome {
	version, err := s.Engine(ctx, *s.cfg)
	if err != nil {
		return failed("containerd at %s: %v", s.cfg.Containerd.Address, err)
	}
	return Outcome{OK, []string{"containerd " + version}}
}

func plugins(_ context.Context, s *state) Outcome {
	if err := s.Plugins(*s.cfg); err != nil {
		return failed("%v", err)
	}
	return ok()
}

func management(ctx context.Context, s *state) Outcome {
	up, err := s.Uptime(ctx, *s.cfg)
	if err != nil {
		return failed("%v", err)
	}
	return Outcome{OK, []string{"up for " + up.Round(time.Second).String()}}
}

// maxDrift is when a clock is wrong: tokens and certificates may then be refused.
const maxDrift = 10 * time.Second

func localTime(ctx context.Context, s *state) Outcome {
	offset, err := s.offset(ctx)
	if err != nil {
		return warning("time server %s: %v", s.TimeServer, err)
	}
	if offset.Abs() >= maxDrift {
		return failed("clock differs from that of %s by %v", s.TimeServer, offset.Round(time.Millisecond))
	}
	return ok()
}
