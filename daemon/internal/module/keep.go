package module

import "context"

// ReleaseImages lets those images go that have lost their names to others and are
// needed no more: no module is made from them, and Options.Kept does not list them.
// A failure is logged; the next call makes up for it.
func (m *Manager) ReleaseImages(ctx context.Context) {
	var kept []string
	if m.opt.Kept != nil {
		kept = m.opt.Kept()
	}
	if err := m.opt.Runtime.ReleaseImages(ctx, kept); err != nil {
		m.opt.Log.WarnContext(ctx, "images that are needed no more stay for now", "error", err)
	}
}
