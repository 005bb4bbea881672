// Package c2d holds the cloud-to-device messages of the local hub: one durable
// queue for each device or module that services have sent to, and the feedback of
// what became of the messages.
//
// A message goes through these states (spec iothub-service 11.3):
//
//	Send ──► enqueued ──hand out──► locked ──complete──► Success
//	            ▲  │                   │ ├──reject──────► Rejected
//	            │  ├─ expiry ──► Expired │ └─ abandon, the tenth time ──► DeliveryCountExceeded
//	            │  └─ purge ───► Purged  │
//	            └── abandon, connection lost, lock timeout ◄─┘
//
// Those on the right are ends: the message is removed, and a feedback record is
// written with the removal if the sender asked for one.
//
// Two ways lead out: a Subscription, to which messages are handed as they come
// (connected devices), and Receive and Settle (devices that poll over HTTP). Both
// share the queue: what one has locked the other does not see.
//
// Bodies stay on disk; in memory is an index of some hundred bytes for a message.
//
// Layout in the store, all keys in buckets:
//
//	cloud.c2d.messages   <identity> \x00 <sequence, 16 hex digits>   the message, JSON
//	cloud.c2d.counts     the same key                                deliveries so far, JSON
//	cloud.c2d.sequences  <identity>                                  last sequence number
//	cloud.c2d.feedback   <sequence, 16 hex digits>                   one record, JSON
package c2d
