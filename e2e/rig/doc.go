// Package rig builds a whole Breakwater world on one Linux machine and takes it
// down again: a cloud, an edge device and a leaf device, each a host of its own
// (a network namespace), joined by virtual cables.
//
//	 leaf ────────── device ────────── cloud
//	10.90.2.2   10.90.2.1│10.90.1.1   10.90.1.2
//	 node client  edged, registry      iothub
//	              module bridge
//
// Nothing of the machine's own network is used or changed, so that port 443 and
// 8883 may be taken and no name needs to be known outside. The programs are the
// built binaries; the rig speaks to them by their command lines and sockets only.
//
// Everything needs root. Only one rig can exist on a machine at a time.
package rig
