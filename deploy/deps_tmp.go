package deploy
import (
 _ "github.com/google/go-containerregistry/pkg/registry"
 _ "github.com/google/go-containerregistry/pkg/v1/remote"
 _ "github.com/google/go-containerregistry/pkg/v1/mutate"
 _ "github.com/alecthomas/kong"
 _ "golang.org/x/sync/errgroup"
)
