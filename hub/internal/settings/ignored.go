package settings

import (
	"cmp"
	"slices"
	"strings"
)

// Ignored is a variable of the original that changes nothing here, and why.
type Ignored struct{ Name, Reason string }

const (
	noCleanup  = "space is given back as messages are finished, without a cleanup"
	noRocksDB  = "there is no RocksDB"
	noMemory   = "messages and state are always on disk"
	noLogging  = "RuntimeLogLevel=debug shows it"
	inPlace    = "certificates are renewed in place, in time for their expiry"
	ofOriginal = "it is for the development of the original"
)

// ignored are the variables that change nothing, in lower case.
var ignored = map[string]string{
	"cachetokens":                          "tokens of clients are checked against their keys and not used towards the cloud, so none is kept",
	"messagecleanupintervalsecs":           noCleanup,
	"checkentirequeueoncleanup":            noCleanup,
	"maxupstreambatchsize":                 "each message is a transfer of its own, with many under way at a time",
	"upstreamfanoutfactor":                 "all senders are served at the same time",
	"useserverheartbeat":                   "heartbeats are always on: a silent cloud is noticed by them",
	"usepersistentstorage":                 noMemory,
	"enablenonpersistentstoragebackup":     noMemory,
	"backupfolder":                         noMemory,
	"storeandforwardenabled":               "messages are always stored before they are acknowledged",
	"optimizeforperformance":               noRocksDB,
	"rocksdb_maxopenfiles":                 noRocksDB,
	"rocksdb_maxtotalwalsize":              noRocksDB,
	"rocksdb_maxmanifestfilesize":          noRocksDB,
	"storage_loglevel":                     noRocksDB,
	"nestededgeenabled":                    "devices below are always served",
	"twinmanagerversion":                   "there is one manager of twins",
	"servercertificaterenewafterinms":      inPlace,
	"maxcheckcertexpiryinms":               inPlace,
	"protocoltimeoutinsecs":                "ShutdownWaitPeriod bounds the end of all",
	"mqttsettings__usepooledbuffers":       "buffers are always reused where it helps",
	"amqpsettings__delayedbatchingenabled": "frames go out at once",
	"enableroutinglogging":                 noLogging,
	"enablesdkdebuglogs":                   noLogging,
	"iothubconnectionstring":               ofOriginal,
}

// FindIgnored returns, in the order of their names, the variables that are set and
// change nothing.
func FindIgnored(environ []string) []Ignored {
	var found []Ignored
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		lower := strings.ToLower(name)
		reason, ok := ignored[lower]
		if strings.HasPrefix(lower, "edgehubdev") {
			reason, ok = ofOriginal, true
		}
		if ok && strings.TrimSpace(value) != "" {
			found = append(found, Ignored{name, reason})
		}
	}
	slices.SortFunc(found, func(a, b Ignored) int { return cmp.Compare(a.Name, b.Name) })
	return found
}
