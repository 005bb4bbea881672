package hub
import (
 _ "github.com/mochi-mqtt/server/v2"
 _ "github.com/dgraph-io/badger/v4"
 _ "github.com/alecthomas/kong"
 _ "github.com/prometheus/client_golang/prometheus/promhttp"
 _ "github.com/coder/websocket"
 _ "pgregory.net/rapid"
 _ "go.uber.org/goleak"
 _ "golang.org/x/sync/errgroup"
 _ "golang.org/x/crypto/x509roots/fallback"
 _ "github.com/eclipse/paho.mqtt.golang"
 _ "google.golang.org/grpc"
 _ "github.com/rs/xid"
)
