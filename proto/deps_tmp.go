package proto
import (
 _ "google.golang.org/grpc"
 _ "google.golang.org/protobuf/proto"
 _ "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
 _ "github.com/eclipse/paho.mqtt.golang"
 _ "pgregory.net/rapid"
 _ "go.uber.org/goleak"
 _ "github.com/coder/websocket"
 _ "github.com/mochi-mqtt/server/v2"
 _ "golang.org/x/sync/errgroup"
)
