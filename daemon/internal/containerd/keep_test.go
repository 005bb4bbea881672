//go:build integration

package containerd_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-iot/breakwater/daemon/internal/runtime"
)

// TestAnImageOutlivesItsTag moves a tag to another image while a module is made from the
// old one, goes back to it, and releases it.
func TestAnImageOutlivesItsTag(t *testing.T) {
	r := engine(t)
	ref := image("test/moving:1")
	pull := func(id string) (runtime.Image, error) {
		return r.Pull(t.Context(), runtime.PullRequest{Image: ref, ID: id})
	}
	names := func(id string) []string {
		collect(t, socket)
		list, err := r.ListImages(t.Context())
		check(t, err)
		for _, i := range list {
			if i.ID == id {
				return i.Names
			}
		}
		return nil
	}
	variant(t, "test/moving:1", "first")
	first, err := pull("")
	check(t, err)
	check(t, r.Create(t.Context(), runtime.Spec{Name: "moved", Image: ref}))
	variant(t, "test/moving:1", "second")
	second, err := pull("")
	check(t, err)
	byDigest := image("test/moving@" + first.Digest)
	if second.ID == first.ID || !slices.Equal(names(first.ID), []string{byDigest}) || !slices.Equal(names(second.ID), []string{ref}) {
		t.Fatalf("first %v, second %v", names(first.ID), names(second.ID))
	}
	// As long as the module is there nobody needs to ask for its image.
	check(t, r.ReleaseImages(t.Context(), nil))
	if names(first.ID) == nil {
		t.Fatal("the image of a module is gone")
	}
	check(t, r.Remove(t.Context(), "moved"))
	check(t, r.ReleaseImages(t.Context(), []string{"sha256:other", first.ID}))

	unhook := hook(t, func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	back, err := pull(first.ID)
	check(t, err)
	if back.ID != first.ID {
		t.Errorf("%+v", back)
	}
	check(t, r.Create(t.Context(), runtime.Spec{
		Name: "moved", Image: ref, ImageID: first.ID, Options: parsed(t, `{"Cmd":["exit=-1"]}`),
	}))
	check(t, r.Start(t.Context(), "moved"))
	unhook()
	st, err := r.Get(t.Context(), "moved")
	check(t, err)
	if st.Image != ref || st.ImageID != first.ID || st.Labels[runtime.LabelOriginalImage] != ref || st.Status != runtime.StatusRunning {
		t.Errorf("%+v", st)
	}

	check(t, r.Remove(t.Context(), "moved"))
	check(t, r.ReleaseImages(t.Context(), nil))
	if left := names(first.ID); left != nil {
		t.Errorf("%v is left", left)
	}
	if _, err := pull(first.ID); !errors.Is(err, runtime.ErrImageNotFound) || !strings.Contains(err.Error(), first.ID) {
		t.Errorf("pull by the id of what is gone: %v", err)
	}
	err = r.Create(t.Context(), runtime.Spec{Name: "moved", Image: ref, ImageID: first.ID})
	if !errors.Is(err, runtime.ErrImageNotFound) {
		t.Errorf("create from what is gone: %v", err)
	}
}

func TestOnlyWhatAModuleWasMadeFromIsKept(t *testing.T) {
	r := engine(t)
	ref := image("test/unused:1")
	variant(t, "test/unused:1", "first of the unused")
	first, err := r.Pull(t.Context(), runtime.PullRequest{Image: ref})
	check(t, err)
	variant(t, "test/unused:1", "second of the unused")
	_, err = r.Pull(t.Context(), runtime.PullRequest{Image: ref})
	check(t, err)
	list, err := r.ListImages(t.Context())
	check(t, err)
	if slices.ContainsFunc(list, func(i runtime.Image) bool { return i.ID == first.ID }) {
		t.Errorf("kept: %+v", list)
	}
}

// TestAnIDIsOfOneRepository: which images may run is decided by their repository.
func TestAnIDIsOfOneRepository(t *testing.T) {
	r := engine(t)
	variant(t, "test/here:1", "here")
	here, err := r.Pull(t.Context(), runtime.PullRequest{Image: image("test/here:1")})
	check(t, err)
	_, err = r.Pull(t.Context(), runtime.PullRequest{Image: image("test/elsewhere:1"), ID: here.ID})
	if !errors.Is(err, runtime.ErrImageNotFound) {
		t.Errorf("%v", err)
	}
}
