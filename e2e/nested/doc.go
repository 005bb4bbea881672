// Package nested proves that edge devices stand below each other: a leaf device, the
// built edgehub of its parent, that of the parent above, and the built iothub. Only
// the upper edgehub reaches the cloud.
package nested
