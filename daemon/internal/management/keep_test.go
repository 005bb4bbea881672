package management_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	managementv1 "github.com/breakwater-iot/breakwater/proto/management/v1"
)

func TestAModuleGoesBackToAnImageThatHasLostItsName(t *testing.T) {
	f := serve(t, "edgeAgent")
	ctx := t.Context()
	hash := func(d *managementv1.ModuleDetails) string {
		return d.GetConfig().GetSettings().GetFields()["imageHash"].GetStringValue()
	}
	made, err := f.modules.Create(ctx, &managementv1.CreateRequest{Spec: spec(t, "temp", "reg/a:1", nil)})
	if err != nil {
		t.Fatal(err)
	}
	old := hash(made)
	if _, err := f.modules.KeepImages(ctx, &managementv1.KeepImagesRequest{ImageHashes: []string{old}}); err != nil {
		t.Fatal(err)
	}
	f.MoveImage("reg/a:1", "other")
	update := func(more map[string]any) (*managementv1.ModuleDetails, error) {
		return f.modules.Update(ctx, &managementv1.UpdateRequest{Name: "temp", Spec: spec(t, "temp", "reg/a:1", more)})
	}
	made, err = update(nil)
	if err != nil || hash(made) == old {
		t.Fatalf("%v, %v", made, err)
	}
	pulls := len(f.Pulls())
	back := map[string]any{"imageHash": old}
	made, err = update(back)
	if err != nil || hash(made) != old || made.GetConfig().GetSettings().GetFields()["image"].GetStringValue() != "reg/a:1" {
		t.Errorf("%v, %v", made, err)
	}
	if asked := f.Pulls()[pulls:]; len(asked) != 1 || asked[0].ID != old {
		t.Errorf("asked for %+v", asked)
	}
	if _, err := update(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.modules.KeepImages(ctx, &managementv1.KeepImagesRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := update(back); status.Code(err) != codes.NotFound {
		t.Errorf("of an image that was released: %v", err)
	}
}

func TestKeepImagesTakesHashesOnly(t *testing.T) {
	f := serve(t, "edgeAgent")
	hash := "sha256:" + strings.Repeat("0", 64)
	for name, list := range map[string][]string{
		"a name": {"reg/a:1"}, "nothing": {""}, "a short hash": {"sha256:00"}, "too many": slices.Repeat([]string{hash}, 257),
	} {
		_, err := f.modules.KeepImages(t.Context(), &managementv1.KeepImagesRequest{ImageHashes: list})
		if status.Code(err) != codes.InvalidArgument || len(f.kept.IDs()) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
