package config_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-iot/breakwater/daemon/internal/config"
)

const secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtMDEyMzQ1Njc4OTA="

const minimal = `[provisioning]
source = "manual"
connection_string = "HostName=hub.example.net;DeviceId=edge1;SharedAccessKey=` + secret + `"
`

const full = `hostname = "gateway.local"
homedir = "/srv/edged"
trust_bundle_cert = "file:///etc/aziot/roots.pem"
allow_elevated_docker_permissions = false
cloud_timeout_sec = 90
cloud_retries = 2

[additional_info]
site = "plant 7"

[iotedge_max_requests]
management = 20
workload = 5

[provisioning]
source = "manual"
iothub_hostname = "hub.example.net"
device_id = "edge1"

[provisioning.authentication]
method = "sas"
device_id_pk = { value = "` + secret + `" }

[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "Never"

[agent.config]
image = "registry.local:5000/agent:1"
createOptions = { HostConfig = { Binds = ["/srv/agent:/data"] } }

[agent.config.auth]
serveraddress = "registry.local:5000"
username = "u"
password = "hunter2"

[agent.env]
RuntimeLogLevel = "debug"
"storageFolder" = "/data"

[agent.trial]
attempts = 5
settle = "1 min"
limit = "5m"

[connect]
workload_uri = "unix:///run/w.sock"
management_uri = "unix:///run/m.sock"

[listen]
workload_uri = "unix:///srv/w.sock"
management_uri = "unix:///srv/m.sock"

[watchdog]
max_retries = 3

[edge_ca]
auto_generated_edge_ca_expiry_days = 30

[containerd]
address = "/run/other.sock"
namespace = "test"
network = "modules"
subnet = "172.30.0.0/24"
cni_bin_dir = "/usr/lib/cni"

[image_garbage_collection]
enabled = false
cleanup_recurrence = "2 days"
image_age_cleanup_threshold = "1d 12h"
cleanup_time = "23:45"
`

const dps = `[provisioning]
source = "dps"
id_scope = "0ne00ABCDEF"
`

const dpsKey = `[provisioning.attestation]
method = "symmetric_key"
registration_id = "r1"
symmetric_key = { value = "` + secret + `" }
`

const x509 = `[provisioning]
source = "manual"
iothub_hostname = "h"
device_id = "d"
[provisioning.authentication]
`

func TestMinimalFileGetsDefaults(t *testing.T) {
	c, err := config.Parse([]byte(minimal), "MachineName")
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "machinename" || c.HomeDir != "/var/lib/aziot/edged" || !c.AllowElevated ||
		c.CloudTimeoutSec != 70 || c.CloudRetries != 1 || c.MaxRequests.Management != 50 || c.MaxRequests.Workload != 10 {
		t.Errorf("general: %+v", c)
	}
	if c.Watchdog.MaxRetries != -1 || c.EdgeCA.Days != 90 || c.Agent.PullPolicy != "on-create" || c.Agent.Name != "edgeAgent" ||
		c.Agent.Trial.Attempts != 3 || c.Agent.Trial.SettleTime != 30*time.Second || c.Agent.Trial.LimitTime != 2*time.Minute {
		t.Errorf("watchdog %+v, CA %+v, agent %+v", c.Watchdog, c.EdgeCA, c.Agent)
	}
	if c.Connect != c.Listen || c.Listen.Management != "unix:///var/run/iotedge/mgmt.sock" {
		t.Errorf("sockets: %+v %+v", c.Connect, c.Listen)
	}
	if c.Containerd.Network != "azure-iot-edge" || c.Containerd.Namespace != "breakwater" {
		t.Errorf("containerd: %+v", c.Containerd)
	}
	if d := c.Device; d.HubName != "hub.example.net" || d.DeviceID != "edge1" || d.Gateway != "hub.example.net" || c.Identity.Key.Base64() != secret {
		t.Errorf("device: %v %v %v", d.HubName, d.DeviceID, d.Gateway)
	}
}

func TestFullFile(t *testing.T) {
	c, err := config.Parse([]byte(full), "x")
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "gateway.local" || c.TrustBundleCert != "/etc/aziot/roots.pem" || c.AllowElevated ||
		c.AdditionalInfo["site"] != "plant 7" || c.MaxRequests.Workload != 5 || c.CloudTimeoutSec != 90 {
		t.Errorf("general: %+v", c)
	}
	if c.Device.DeviceID != "edge1" || c.Identity.Key.Base64() != secret {
		t.Error("explicit provisioning is lost")
	}
	a := c.Agent
	if a.PullPolicy != "never" || a.Config.Image != "registry.local:5000/agent:1" || a.Config.Auth.Password != "hunter2" ||
		a.Env["RuntimeLogLevel"] != "debug" || fmt.Sprint(a.Config.CreateOptions) != "map[HostConfig:map[Binds:[/srv/agent:/data]]]" {
		t.Errorf("agent: %+v", a)
	}
	if a.Trial.Attempts != 5 || a.Trial.SettleTime != time.Minute || a.Trial.LimitTime != 5*time.Minute {
		t.Errorf("trial: %+v", a.Trial)
	}
	if c.Watchdog.MaxRetries != 3 || c.EdgeCA.Days != 30 || c.Listen.Workload != "unix:///srv/w.sock" || c.Connect.Management != "unix:///run/m.sock" {
		t.Errorf("watchdog %+v, CA %+v", c.Watchdog, c.EdgeCA)
	}
	if g := c.ImageGC; g.Enabled || g.Days != 2 || g.MinAge != 36*time.Hour || g.Hour != 23 || g.Minute != 45 {
		t.Errorf("image garbage collection: %+v", g)
	}
	if c.Containerd != (config.Containerd{
		Address: "/run/other.sock", Namespace: "test", Network: "modules", Subnet: "172.30.0.0/24", CNIBinDir: "/usr/lib/cni",
		V4: ipRange("172.30.0.0/24", "", ""),
	}) {
		t.Errorf("containerd: %+v", c.Containerd)
	}
}

func TestParentStandsBetweenDeviceAndHub(t *testing.T) {
	const agent = "[agent.config]\nimage = \"$upstream:8000/agent:1\"\n[agent.config.auth]\nserveraddress = \"$upstream:8000\"\n"
	for name, text := range map[string]string{
		"by its name":        "parent_hostname = \"up.plant\"\n" + minimal,
		"by its other name":  "local_gateway_hostname = \"up.plant\"\n" + minimal,
		"explicit":           "parent_hostname = \"up.plant\"\n[provisioning]\nsource = \"manual\"\niothub_hostname = \"hub.example.net\"\ndevice_id = \"edge1\"\nauthentication = { method = \"sas\", device_id_pk = { value = \"" + secret + "\" } }\n",
		"provisioned by DPS": "parent_hostname = \"up.plant\"\n" + dps + dpsKey,
	} {
		c, err := config.Parse([]byte(text+"\n"+agent), "x")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d := c.Assigned("hub.example.net", "edge1")
		if c.Provisioning.Source == "manual" && d != c.Device {
			t.Errorf("%s: %+v, %+v", name, c.Device, d)
		}
		if d.Gateway != "up.plant" || !d.Nested() {
			t.Errorf("%s: gateway %q", name, d.Gateway)
		}
		if a := c.Agent.Config; a.Image != "up.plant:8000/agent:1" || a.Auth.ServerAddress != "up.plant:8000" {
			t.Errorf("%s: %s, %s", name, a.Image, a.Auth.ServerAddress)
		}
	}
	c, err := config.Parse([]byte(minimal), "x")
	if err != nil || c.Device.Nested() || c.Device.Gateway != c.Device.HubName {
		t.Errorf("without a parent: %v, %+v", err, c.Device)
	}
}

func TestErrorsNameLineAndKey(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"misspelt key", "hostnme = \"x\"\n" + minimal, "line 1: hostnme: unknown key"},
		{"misspelt nested key", minimal + "[agent.config]\nimagee = \"x\"", "line 5: agent.config.imagee: unknown key"},
		{"unknown table", minimal + "[agnet]\nname = \"x\"", "line 4: agnet: unknown key"},
		{"parent that is no host", "parent_hostname = \"https://up\"\n" + minimal, "line 1: parent_hostname: not a host name"},
		{"parent without a name", "parent_hostname = \"\"\n" + minimal, "line 1: parent_hostname: not a host name"},
		{"parent that is the device", "hostname = \"GW\"\nlocal_gateway_hostname = \"gw\"\n" + minimal, "line 2: local_gateway_hostname: is the hostname of this device"},
		{"parent named twice", "parent_hostname = \"a\"\nlocal_gateway_hostname = \"b\"\n" + minimal, "line 2: local_gateway_hostname: is another name of"},
		{"image of a parent that is not there", minimal + "[agent.config]\nimage = \"$upstream:443/agent:1\"", "line 5: agent.config.image: $upstream stands for the parent"},
		{"registry of a parent that is not there", minimal + "[agent.config.auth]\nserveraddress = \"$upstream\"", "line 5: agent.config.auth.serveraddress: $upstream stands for the parent"},
		{"image of something else above", "parent_hostname = \"up\"\n" + minimal + "[agent.config]\nimage = \"$upstreams/agent:1\"", "line 6: agent.config.image: $upstream must be followed"},
		{"recurrence of hours", minimal + "[image_garbage_collection]\ncleanup_recurrence = \"36h\"", "line 5: image_garbage_collection.cleanup_recurrence: must be"},
		{"recurrence of nothing", minimal + "[image_garbage_collection]\ncleanup_recurrence = \"\"", "line 5: image_garbage_collection.cleanup_recurrence: must be"},
		{"age", minimal + "[image_garbage_collection]\nimage_age_cleanup_threshold = \"old\"", "line 5: image_garbage_collection.image_age_cleanup_threshold: must be"},
		{"time of the day", minimal + "[image_garbage_collection]\ncleanup_time = \"24:00\"", "line 5: image_garbage_collection.cleanup_time: must be"},
		{"tpm", minimal + "[tpm]\ntcti = \"abrmd\"", "line 5: tpm.tcti: must be"},
		{"tpm index", minimal + "[tpm]\nauth_key_index = 0x800000", "line 5: tpm.auth_key_index: must be from 0"},
		{"dps endpoint", dps + "global_endpoint = \"http://x\"\n" + dpsKey, "line 4: provisioning.global_endpoint: must be an https"},
		{"dps endpoint with path", dps + "global_endpoint = \"https://x/y\"\n" + dpsKey, "line 4: provisioning.global_endpoint: must be an https"},
		{"dps without scope", "[provisioning]\nsource = \"dps\"\n" + dpsKey, "line 1: provisioning.id_scope: must be"},
		{"dps without method", dps, "line 1: provisioning.attestation.method: must be"},
		{"dps without registration", strings.Replace(dps+dpsKey, "registration_id = \"r1\"", "", 1), "provisioning.attestation.registration_id: missing"},
		{"dps registration", strings.Replace(dps+dpsKey, "r1", "r/1", 1), "line 6: provisioning.attestation.registration_id: must be"},
		{"dps with device id", dps + "device_id = \"d\"\n" + dpsKey, "line 4: provisioning.device_id: is only for source = \"manual\""},
		{"dps payload", dps + "payload = { uri = \"ftp://x/y\" }\n" + dpsKey, "line 4: provisioning.payload.uri: must be a file"},
		{"dps key missing", strings.Replace(dps+dpsKey, "symmetric_key =", "#", 1), "provisioning.attestation.symmetric_key: needs either"},
		{"tpm with key", strings.Replace(dps+dpsKey, "\"symmetric_key\"", "\"tpm\"", 1), "line 7: provisioning.attestation.symmetric_key: has no meaning"},
		{"manual with scope", strings.Replace(minimal, "connection", "id_scope = \"s\"\nconnection", 1), "line 3: provisioning.id_scope: is only for source = \"dps\""},
		{"mode", "auto_reprovisioning_mode = \"Sometimes\"\n" + minimal, "line 1: auto_reprovisioning_mode: must be"},
		{"est without url", minimal + "[edge_ca]\nmethod = \"est\"", "line 4: edge_ca.url: missing"},
		{"est without credentials", minimal + "[edge_ca]\nmethod = \"est\"\nurl = \"https://x/\"", "line 4: edge_ca: method \"est\" needs credentials"},
		{"est http", minimal + "[cert_issuance.est.urls]\ndefault = \"http://x\"", "line 5: cert_issuance.est.urls.default: must be an https"},
		{"est half a login", minimal + "[cert_issuance.est.auth]\nusername = \"u\"", "line 4: cert_issuance.est.auth: username and password"},
		{"est own and bootstrap", minimal + "[cert_issuance.est.auth]\nidentity_cert = \"/a\"\nidentity_pk = \"/b\"\nbootstrap_identity_cert = \"/c\"\nbootstrap_identity_pk = \"/d\"", "line 7: cert_issuance.est.auth.bootstrap_identity_cert: has no meaning"},
		{"est threshold", minimal + "[edge_ca.auto_renew]\nthreshold = \"120%\"", "line 5: edge_ca.auto_renew.threshold: must be"},
		{"local CA missing", minimal + "[edge_ca]\nmethod = \"local_ca\"", "line 5: edge_ca.method: \"local_ca\" needs"},
		{"local CA with url", minimal + "[cert_issuance.local_ca]\ncert = \"/a\"\npk = \"/b\"\n[edge_ca]\nmethod = \"local_ca\"\nurl = \"https://x\"", "line 9: edge_ca.url: url and credentials are only"},
		{"local CA of half a pair", minimal + "[cert_issuance.local_ca]\ncert = \"/a\"", "line 4: cert_issuance.local_ca: cert and pk are needed together"},
		{"local CA of a key alone", minimal + "[cert_issuance.local_ca]\npk = \"/b\"", "line 4: cert_issuance.local_ca: cert and pk are needed together"},
		{"local CA of another kind", minimal + "[cert_issuance.local_ca]\ncert = 1", "line 5: cert_issuance.local_ca.cert: must be a file:// URI or a table"},
		{"local CA that issues itself", minimal + "[cert_issuance.local_ca.cert]\nmethod = \"local_ca\"", "line 5: cert_issuance.local_ca.cert.method: must be \"est\" or \"self_signed\""},
		{"issued local CA without a method", minimal + "[cert_issuance.local_ca]\ncert = { common_name = \"x\" }", "line 5: cert_issuance.local_ca.cert.method: must be \"est\""},
		{"issued local CA misspelt", minimal + "[cert_issuance.local_ca.cert]\nmethod = \"self_signed\"\nexpire_days = 1", "line 6: cert_issuance.local_ca.cert.expire_days: unknown key"},
		{"issued local CA for ever", minimal + "[cert_issuance.local_ca.cert]\nmethod = \"self_signed\"\nexpiry_days = 40000", "line 6: cert_issuance.local_ca.cert.expiry_days: must be from 1"},
		{"issued local CA without a server", minimal + "[cert_issuance.local_ca]\ncert = { method = \"est\", username = \"u\", password = \"hunter2\" }", "line 5: cert_issuance.local_ca.cert.url: missing"},
		{"issued local CA with a key", minimal + "[cert_issuance.local_ca]\npk = \"/b\"\ncert = { method = \"self_signed\" }", "line 5: cert_issuance.local_ca.pk: excludes a table in cert"},
		{"edge CA method", minimal + "[edge_ca]\nmethod = \"scep\"", "line 5: edge_ca.method: must be"},
		{"edge CA both", minimal + "[edge_ca]\ncert = \"/a\"\npk = \"/b\"\nmethod = \"self_signed\"", "line 7: edge_ca.method: excludes cert"},
		{"edge CA subject", minimal + "[edge_ca]\nsubject = { X = \"y\" }", "line 5: edge_ca.subject: \"X\" is none"},
		{"edge CA named as the host", "hostname = \"gw\"\n" + minimal + "[edge_ca]\nsubject = { CN = \"gw\" }", "line 1: hostname: must differ from the name of the edge CA"},
		{"edge CA by id", minimal + "[cert_issuance.certs.aziot-edged-ca]\nmethod = \"scep\"", "line 5: cert_issuance.certs.aziot-edged-ca.method: must be"},
		{"device's certificate by id", x509 + "method = \"x509\"\n[cert_issuance.certs.device-id]\nmethod = \"scep\"", "line 8: cert_issuance.certs.device-id.method: must be"},
		{"certificate of a module that renews itself", minimal + "[cert_issuance.certs.\"aziot-edged/module/m:identity\"]\nauto_renew = { retry = \"1 day\" }", "line 4: cert_issuance.certs.aziot-edged/module/m:identity: certificates of modules are the edge CA's"},
		{"network named badly", minimal + "[moby_runtime]\nnetwork = \"a b\"", "line 5: moby_runtime.network: must be letters"},
		{"network named badly in a table", minimal + "[moby_runtime.network]\nname = \"a b\"", "line 5: moby_runtime.network.name: must be letters"},
		{"subnet of no addresses", minimal + "[containerd]\nsubnet = \"0.0.0.1/8\"", "line 5: containerd.subnet: must be an IPv4 network"},
		{"tpm parameter", minimal + "[tpm]\ntcti = \"swtpm:hots=x\"", "line 5: tpm.tcti: must be"},
		{"tpm index of the storage root key", minimal + "[tpm]\nauth_key_index = 1", "line 5: tpm.auth_key_index: is the place of the TPM's own key 0x81000001"},
		{"tpm index of the endorsement key", minimal + "[tpm]\nauth_key_index = 0x10001", "line 5: tpm.auth_key_index: is the place of the TPM's own key 0x81010001"},
		{"pkcs11 library missing", minimal + "[edge_ca]\ncert = \"/a\"\npk = \"pkcs11:object=a?pin-value=1234\"", "line 6: edge_ca.pk: a pkcs11: URI needs"},
		{"tpm handle", minimal + "[edge_ca]\ncert = \"/a\"\npk = \"tpm:handle=7\"", "line 6: edge_ca.pk: tpm URI: must be"},
		{"tpm storage root key", minimal + "[edge_ca]\ncert = \"/a\"\npk = \"tpm:handle=0x81000001\"", "line 6: edge_ca.pk: tpm URI: 0x81000001 is the TPM's own"},
		{"tpm identity key", minimal + "[edge_ca]\ncert = \"/a\"\npk = \"tpm:handle=0x81000100\"", "line 6: edge_ca.pk: is the place for the key of the provisioning service"},
		{"new keys in two places", minimal + "[aziot_keys]\npkcs11_lib_path = \"/a\"\npkcs11_base_slot = \"pkcs11:token=a\"\ntpm_new_keys = true", "line 7: aziot_keys.tpm_new_keys: excludes pkcs11_base_slot"},
		{"pkcs11 slot", minimal + "[aziot_keys]\npkcs11_base_slot = \"/a\"", "line 5: aziot_keys.pkcs11_base_slot: must be a pkcs11: URI"},
		{"named certificate that is no table", minimal + "[cert_issuance.certs]\nx = \"y\"", "line 5: cert_issuance.certs.x: value of the wrong type"},
		{"named certificate misspelt", minimal + "[cert_issuance.certs.aziot-edged-ca]\nmethd = \"est\"", "line 5: cert_issuance.certs.aziot-edged-ca.methd: unknown key"},
		{"certificate of a module by EST", minimal + "[cert_issuance.certs.\"aziot-edged/module/m:identity\"]\nurl = \"https://x/\"", "line 4: cert_issuance.certs.aziot-edged/module/m:identity: certificates of modules are the edge CA's"},
		{"certificate of a module for ever", minimal + "[cert_issuance.certs.\"aziot-edged/module/m:identity\"]\nexpiry_days = 40000", "expiry_days: must be from 1"},
		{"preloaded certificate of two kinds", minimal + "[preloaded_certs]\nx = [\"a\", 1]", "line 5: preloaded_certs.x: value of the wrong type"},
		{"preloaded key that is a table", minimal + "[preloaded_keys.x]\ny = 1", "value of the wrong type"},
		{"master key on a token", minimal + "[aziot_keys]\npkcs11_lib_path = \"/l\"\n[preloaded_keys]\naziot_identityd_master_id = \"pkcs11:object=a\"", "line 7: preloaded_keys.aziot_identityd_master_id: must be a file:// URI"},
		{"two master keys", "imported_master_encryption_key = \"/a\"\n" + minimal + "[preloaded_keys]\niotedge_master_encryption_id = \"file:///b\"", "line 1: imported_master_encryption_key: excludes preloaded_keys"},
		{"limit of a service misspelt", minimal + "[aziot_max_requests]\nkeysd = 10", "line 5: aziot_max_requests.keysd: unknown key"},
		{"local identities misspelt", minimal + "[localid]\ndomian = \"x\"", "line 5: localid.domian: unknown key"},
		{"additional info that is no text", minimal + "[additional_info]\na = 1", "line 5: additional_info.a: value of the wrong type"},
		{"additional info from nowhere", "additional_info = \"file:///none\"\n" + minimal, "line 1: additional_info: open /none"},
		{"additional info of another kind", "additional_info = 1\n" + minimal, "line 1: additional_info: must be a table"},
		{"old word for reprovisioning", minimal + "dynamic_reprovisioning = true", "line 4: provisioning.dynamic_reprovisioning: is replaced by auto_reprovisioning_mode"},
		{"no provisioning", "hostname = \"x\"", "provisioning.source: missing"},
		{"no credentials", "[provisioning]\nsource = \"manual\"", "line 1: provisioning.connection_string: missing"},
		{"both credentials", minimal + "device_id = \"x\"", "line 3: provisioning.connection_string: excludes"},
		{"module's string", strings.Replace(minimal, "DeviceId=edge1", "DeviceId=edge1;ModuleId=m", 1), "line 3: provisioning.connection_string: is that of a module"},
		{"service's string", "[provisioning]\nsource = \"manual\"\nconnection_string = \"HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=" + secret + "\"", "line 3: provisioning.connection_string: "},
		{"x509 string", strings.Replace(minimal, "SharedAccessKey="+secret, "x509=true", 1), "line 3: provisioning.connection_string: x509=true has no place"},
		{"gateway string", strings.Replace(minimal, "DeviceId=edge1", "DeviceId=edge1;GatewayHostName=g", 1), "GatewayHostName is for clients of an edge device"},
		{"other method", x509 + "method = \"tpm\"", "line 6: provisioning.authentication.method: must be"},
		{"x509 without certificate", x509 + "method = \"x509\"", "line 5: provisioning.authentication.identity_cert: missing: a file:// URI or a table"},
		{"x509 without key", x509 + "method = \"x509\"\nidentity_cert = \"/a\"", "line 5: provisioning.authentication.identity_pk: missing"},
		{"x509 over http", x509 + "method = \"x509\"\nidentity_cert = \"http://a/b\"\nidentity_pk = \"/b\"", "line 7: provisioning.authentication.identity_cert: must be a file"},
		{"x509 misspelt", x509 + "method = \"x509\"\nidentity_cert = { methd = \"est\" }", "line 7: provisioning.authentication.identity_cert.methd: unknown key"},
		{"x509 wrong type", x509 + "method = \"x509\"\nidentity_cert = { expiry_days = \"x\" }", "identity_cert.expiry_days: value of the wrong type"},
		{"key not base64", strings.Replace(full, secret, "%%%", 1), "line 22: provisioning.authentication.device_id_pk.value: not base64"},
		{"wrong type", "cloud_retries = \"two\"\n" + minimal, "line 1: cloud_retries: value of the wrong type"},
		{"syntax", minimal + "x = = 1", "line 4: "},
		{"key twice", "hostname = \"a\"\nhostname = \"b\"\n" + minimal, "line 2: "},
		{"bad host name", "hostname = \"a b\"\n" + minimal, "line 1: hostname: not a host name"},
		{"short timeout", "cloud_timeout_sec = 10\n" + minimal, "line 1: cloud_timeout_sec: must be at least 70"},
		{"relative home", "homedir = \"var\"\n" + minimal, "line 1: homedir: must be an absolute path"},
		{"http manifest bundle", "manifest_trust_bundle_cert = \"https://x/y\"\n" + minimal, "line 1: manifest_trust_bundle_cert: must be a file:// URI"},
		{"http bundle", "trust_bundle_cert = \"https://x/y\"\n" + minimal, "line 1: trust_bundle_cert: must be a file:// URI"},
		{"socket unit for modules", minimal + "[connect]\nworkload_uri = \"fd://x\"", "line 5: connect.workload_uri: fd:// is only for [listen]"},
		{"socket unit without a name", minimal + "[listen]\nworkload_uri = \"fd://\"", "line 5: listen.workload_uri: fd:// is only for [listen]"},
		{"tcp socket", minimal + "[connect]\nmanagement_uri = \"http://x\"", "line 5: connect.management_uri: must be unix://"},
		{"long socket", minimal + "[listen]\nworkload_uri = \"unix:///" + strings.Repeat("x", 120) + "\"", "longer than the 107 bytes"},
		{"pull policy", minimal + "[agent]\nimagePullPolicy = \"always\"", "line 5: agent.imagePullPolicy: "},
		{"agent name", minimal + "[agent]\nname = \"agent\"", "line 5: agent.name: "},
		{"agent type", minimal + "[agent]\ntype = \"wasm\"", "line 5: agent.type: "},
		{"agent env", minimal + "[agent.env]\n\"A=B\" = \"x\"", "line 4: agent.env: \"A=B\" is not the name"},
		{"no attempts", minimal + "[agent.trial]\nattempts = 0", "line 5: agent.trial.attempts: must be from 1 to 10"},
		{"many attempts", minimal + "[agent.trial]\nattempts = 11", "line 5: agent.trial.attempts: "},
		{"no settle time", minimal + "[agent.trial]\nsettle = \"\"", "line 5: agent.trial.settle: must be from 1 second to 10 minutes"},
		{"long settle time", minimal + "[agent.trial]\nsettle = \"11m\"", "line 5: agent.trial.settle: "},
		{"settle time of another kind", minimal + "[agent.trial]\nsettle = \"soon\"", "line 5: agent.trial.settle: "},
		{"limit too near", minimal + "[agent.trial]\nlimit = \"44s\"", "line 5: agent.trial.limit: must be at most 1 hour, and at least 15s more"},
		{"limit too near to a settle time", minimal + "[agent.trial]\nsettle = \"2m\"", "line 4: agent.trial.limit: "},
		{"long limit", minimal + "[agent.trial]\nlimit = \"61m\"", "line 5: agent.trial.limit: "},
		{"retries", minimal + "[watchdog]\nmax_retries = \"some\"", "line 5: watchdog.max_retries: "},
		{"negative retries", minimal + "[watchdog]\nmax_retries = -1", "line 5: watchdog.max_retries: "},
		{"retries of another type", minimal + "[watchdog]\nmax_retries = 1.5", "line 5: watchdog.max_retries: "},
		{"CA without key", minimal + "[edge_ca]\ncert = \"file:///a.pem\"", "line 4: edge_ca: cert and pk are needed together"},
		{"CA with days", minimal + "[edge_ca]\ncert = \"/a\"\npk = \"/b\"\nauto_generated_edge_ca_expiry_days = 3", "line 7: edge_ca.auto_generated_edge_ca_expiry_days: has no meaning"},
		{"docker engine", minimal + "[moby_runtime]\nuri = \"unix:///var/run/docker.sock\"", "line 5: moby_runtime.uri: a Docker engine is not used"},
		{"two networks", minimal + "[moby_runtime]\nnetwork = \"a\"\n[containerd]\nnetwork = \"b\"", "line 5: moby_runtime.network: excludes"},
		{"content trust", minimal + "[moby_runtime.content_trust.ca_certs]\nx = \"y\"", "line 4: moby_runtime.content_trust: is not supported: say in [[image_verification.policy]]"},
		{"subnet", minimal + "[containerd]\nsubnet = \"172.30.0.0\"", "line 5: containerd.subnet: "},
		{"namespace", minimal + "[containerd]\nnamespace = \"a/b\"", "line 5: containerd.namespace: "},
		{"limit", minimal + "[iotedge_max_requests]\nworkload = 0", "line 5: iotedge_max_requests.workload: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse([]byte(c.text), "machine")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %q, want %q", err, c.want)
			}
			if !errors.As(err, new(*config.Error)) {
				t.Errorf("%T holds no *config.Error", err)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "hunter2") {
				t.Error("error holds a secret")
			}
		})
	}
}

func TestAllErrorsAreReportedInOrder(t *testing.T) {
	_, err := config.Parse([]byte("cloud_timeout_sec = 1\nhomedir = \"x\"\n"+minimal+"[watchdog]\nmax_retries = \"x\""), "m")
	want := "line 1: cloud_timeout_sec: must be at least 70\nline 2: homedir: must be an absolute path\nline 7: watchdog.max_retries: must be \"infinite\" or a number"
	if err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
}

func TestMobyNetworkForms(t *testing.T) {
	for _, c := range []struct{ name, text, network string }{
		{"name", "[moby_runtime]\nnetwork = \"n1\"", "n1"},
		{"table", "[moby_runtime.network]\nname = \"n2\"\nipv6 = false\n[[moby_runtime.network.ipam.config]]\nsubnet = \"10.9.0.0/16\"", "n2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := config.Parse([]byte(minimal+c.text), "m")
			if err != nil || got.Containerd.Network != c.network || got.Containerd.IPv6 {
				t.Fatalf("%+v, %v", got.Containerd, err)
			}
		})
	}
	got, err := config.Parse([]byte(minimal+"[moby_runtime]\nuri = \"unix:///run/k/containerd.sock\""), "m")
	if err != nil || got.Containerd.Address != "/run/k/containerd.sock" {
		t.Fatalf("%+v, %v", got.Containerd, err)
	}
}

func TestDeviceKeyFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device-id")
	raw, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(full, `value = "`+secret+`"`, `uri = "file://`+path+`"`, 1)
	c, err := config.Parse([]byte(text), "m")
	if err != nil || c.Identity.Key.Base64() != secret {
		t.Fatalf("key from file: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse([]byte(text), "m"); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("key that all can read: %v", err)
	}
}

func TestFileModeIsChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o644: false, 0o602: false, 0o601: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := config.Load(path, "m")
		if (err == nil) != ok {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if _, err := config.Load(path+".no", "m"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestSecretsPrintAsStars(t *testing.T) {
	c, err := config.Parse([]byte(minimal+"[agent.config.auth]\nserveraddress = \"s\"\nusername = \"u\"\npassword = \"hunter2\""), "m")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{c, c.Provisioning, c.Device, c.Agent.Config.Auth} {
			out := fmt.Sprintf(verb, v)
			raw, _ := base64.StdEncoding.DecodeString(secret)
			if strings.Contains(out, secret) || strings.Contains(out, "hunter2") || strings.Contains(out, string(raw)) ||
				strings.Contains(out, fmt.Sprintf("%x", raw)) {
				t.Errorf("%s of %T shows a secret: %s", verb, v, out)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(full))
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("provisioning = { source = \"dps\", attestation = { method = \"tpm\" } }"))
	f.Add([]byte("imported_master_encryption_key = \"/e\"\nadditional_info = \"/none\"\n" + minimal + "[preloaded_keys]\nest-id = \"tpm:handle=0x81000200\"\n[preloaded_certs]\na = [\"b\"]\n[localid]\n[aziot_max_requests]\n[cert_issuance.certs.aziot-edged-ca]\nmethod = \"est\""))
	f.Add([]byte(strings.Replace(full, "value = \"", "uri = \"tpm:", 1)))
	f.Add([]byte(minimal + "[preloaded_keys]\nlocal-ca = \"/k\"\n[cert_issuance.local_ca]\ncert = { method = \"self_signed\", subject = { O = \"x\" } }\n[edge_ca]\nmethod = \"local_ca\""))
	f.Add([]byte("[[a]]\nb.c = [1, {d = 2}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse(data, "machine")
		if err != nil {
			if !errors.As(err, new(*config.Error)) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if c.HomeDir == "" || !provisioned(c) {
			t.Fatalf("accepted without a device: %q", data)
		}
	})
}

// provisioned tells whether a config says who the device is, or how to find out.
func provisioned(c config.Config) bool {
	if c.Provisioning.Source == "dps" {
		if c.Provisioning.IDScope == "" {
			return false
		}
	} else if c.Device.DeviceID == "" || c.Device.HubName == "" {
		return false
	}
	switch id := c.Identity; id.Method {
	case config.SAS:
		return len(id.Key) > 0 || id.KeyURI.OnToken() || id.KeyURI.InTPM()
	case config.X509:
		return (id.Cert != "" && id.CertPK != "") || id.Issue.Method != ""
	case config.TPMKey:
		return id.RegistrationID != ""
	}
	return false
}

func TestSocketUnitsMayListen(t *testing.T) {
	c, err := config.Parse([]byte(minimal+"[listen]\nworkload_uri = \"fd://aziot-edged.workload.socket\"\nmanagement_uri = \"fd://aziot-edged.mgmt.socket\""), "gw")
	if err != nil || c.Listen.Management != "fd://aziot-edged.mgmt.socket" || c.Connect.Management != "unix:///var/run/iotedge/mgmt.sock" {
		t.Errorf("%+v, %v", c.Listen, err)
	}
}
