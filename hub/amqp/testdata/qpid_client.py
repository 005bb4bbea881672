"""Runs a Qpid Proton client against a server at the URL given, and fails with
an exception where the server does not behave. The server is that of
conformance_test.go: it gives "source" as many messages as there is credit for, up
to 5 for each drain, and takes all at "target"."""
import sys
from proton import Message, symbol, Delivery, int32, uint, ulong, timestamp, Array, Data, UNDESCRIBED
from proton.utils import BlockingConnection, SendException, LinkDetached
from proton.reactor import ReceiverOption, SenderOption, AtMostOnce, Filter
import uuid

url = sys.argv[1]


def check(cond, what):
    if not cond:
        raise AssertionError(what)


class Settle(ReceiverOption):
    def __init__(self, mode):
        self.mode = mode

    def apply(self, link):
        link.rcv_settle_mode = self.mode


def sending(conn):
    s = conn.create_sender("target")
    for i in range(1000):
        s.send(Message(id=str(i), body="m%d" % i), timeout=10)
    s.send(Message(body=b"x" * 1000000), timeout=30)
    m = Message(
        id=uuid.uuid4(), user_id=b"me", address="target", subject="s", reply_to="r", correlation_id=ulong(7),
        content_type=symbol("application/json"), content_encoding=symbol("utf-8"), expiry_time=1700000000, creation_time=1600000000,
        group_id="g", group_sequence=3, durable=True, priority=9, ttl=5,
        properties={"status": int32(200), "text": "t" * 300, "double": 1.5, "when": timestamp(1), "none": None, "yes": True},
        annotations={symbol("x-opt-a"): [1, "two", {"three": 3}], symbol("x-opt-b"): Array(UNDESCRIBED, Data.STRING, "a", "b")},
        body={"nested": [1, 2, {"deep": "yes"}]})
    s.send(m, timeout=10)
    try:
        s.send(Message(subject="reject"), timeout=10)
        raise AssertionError("not rejected")
    except SendException as e:
        check(e.state == Delivery.REJECTED, "state %s" % e.state)
    try:
        s.send(Message(subject="release"), timeout=10)
        raise AssertionError("not released")
    except SendException as e:
        check(e.state == Delivery.RELEASED, "state %s" % e.state)
    s.close()
    s = conn.create_sender("target", options=AtMostOnce())
    for i in range(100):
        s.send(Message(body="settled"), timeout=10)
    s.close()


def receiving(conn, mode):
    r = conn.create_receiver("source", credit=10, options=[Settle(mode), Filter({symbol("f"): "x"})])
    check(r.link.remote_source.filter is not None, "filter")
    for i in range(100):
        m = r.receive(timeout=10)
        check(m.body == b"m%d" % i, "message %d is %r" % (i, m.body))
        check(m.annotations["x-opt-sequence-number"] == i, "annotation")
        if i % 4 == 0:
            r.accept()
        elif i % 4 == 1:
            r.reject()
        elif i % 4 == 2:
            r.release(delivered=True)
        else:
            r.release(delivered=False)
    r.close()


def draining(conn):
    r = conn.create_receiver("drain", credit=1)
    check(r.receive(timeout=10).body == b"one", "one")
    for n in range(3):
        r.link.drain(20)
        conn.wait(lambda: r.link.credit == 0, timeout=10, msg="drain")
        got = []
        while r.fetcher.has_message:
            got.append(r.fetcher.pop())
        check(len(got) == 5, "drain gave %d messages" % len(got))
    r.close()


def refused(conn):
    for make in (conn.create_sender, conn.create_receiver):
        try:
            make("nowhere")
            raise AssertionError("attached")
        except LinkDetached as e:
            check(e.condition == "amqp:not-found", e.condition)


def many(conn):
    links = [conn.create_sender("target", name="many-%d" % i) for i in range(100)]
    for s in links:
        s.send(Message(body="x"), timeout=10)
    for s in links:
        s.close()


for options in (dict(allowed_mechs="ANONYMOUS"), dict(allowed_mechs="PLAIN", user="me", password="secret", allow_insecure_mechs=True), dict(sasl_enabled=False)):
    conn = BlockingConnection(url, timeout=10, heartbeat=2, **options)
    sending(conn)
    receiving(conn, 0)
    receiving(conn, 1)
    draining(conn)
    refused(conn)
    many(conn)
    conn.close()
print("ok")
