"""Qpid Proton as a generic AMQP 1.0 client of either hub: it knows nothing of IoT Hub
but the addresses that are given here. It comes in by SASL PLAIN with a token, or
with a token over $cbs."""
import json
import time
import uuid

from proton import ConnectionException, Message, SSLDomain, ulong
from proton.reactor import AtLeastOnce, AtMostOnce
from proton.utils import BlockingConnection, LinkDetached, SendException

from scenario import arrival, check, run, same, unique


def domain(config):
    d = SSLDomain(SSLDomain.MODE_CLIENT)
    d.set_trusted_ca_db(config["ca"])
    d.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
    return d


def plain(config, password=None, heartbeat=None):
    user = config["path"][len("/devices/"):] + "@sas." + config["hub"].split(".")[0]
    return BlockingConnection(
        "amqps://%s:5671" % config["host"], timeout=20, ssl_domain=domain(config), allowed_mechs="PLAIN",
        user=user, password=password or config["password"], heartbeat=heartbeat)


def put_token(conn, token, message_id):
    sender, receiver = conn.create_sender("$cbs"), conn.create_receiver("$cbs", credit=5)
    sender.send(Message(
        id=message_id, address="$cbs", reply_to="cbs", body=token,
        properties={"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "proton"}))
    answer = receiver.receive(timeout=10)
    receiver.accept()
    same(answer.correlation_id, message_id, "correlation id")  # a text equals no number and no UUID
    sender.close()
    receiver.close()
    return answer.properties["status-code"], answer.properties["status-description"]


def by_token(config):
    conn = BlockingConnection("amqps://%s:5671" % config["host"], timeout=20, ssl_domain=domain(config), sasl_enabled=False)
    same(put_token(conn, config["password"], "first")[0], 200, "put-token")
    return conn


def message(config, case, body="text", **more):
    properties = {"case": case, **more}
    if config.get("module"):
        properties["iothub-outputname"] = "up"
    return Message(id="m-" + case, body=body.encode(), properties=properties, inferred=True)


def telemetry(options, login):
    def feature(config):
        conn = login(config)
        sender = conn.create_sender(config["path"] + "/messages/events", options=options)
        cases = [unique() for _ in range(30)]
        for case in cases:
            sender.send(message(config, case, n=5, yes=True, text="äöü"), timeout=10)
        sender.close()
        conn.close()
        return {"arrives": [arrival(config, c, application={"text": "äöü", "n": "5"}, system={"message_id": "m-" + c}, text="text") for c in cases],
                "ordered": True}
    return feature


def large(config):
    conn = plain(config)
    sender = conn.create_sender(config["path"] + "/messages/events")
    case = unique()
    sender.send(message(config, case, "x" * (255 * 1024)), timeout=20)
    try:
        sender.send(message(config, unique(), "x" * (400 * 1024)), timeout=20)
        raise AssertionError("400 KiB were taken")
    except (SendException, LinkDetached) as err:
        check("size" in str(getattr(err, "condition", "")) or isinstance(err, SendException), "refused by %r" % err)
    conn.close()
    return {"arrives": [arrival(config, case, text="x" * (255 * 1024))]}


def tokens(config):
    conn = by_token(config)
    for message_id in (uuid.uuid4(), ulong(7), "text"):
        same(put_token(conn, config["password"], message_id)[0], 200, "status")
    same(put_token(conn, config["wrong"], "bad")[0], 401, "status of a bad token")
    check(put_token(conn, "nonsense", "worse")[0] in (400, 401), "nonsense was taken")
    conn.close()


def refused_password(config):
    try:
        plain(config, "SharedAccessSignature sr=x&sig=AAAA&se=9999999999").close()
    except ConnectionException:
        return
    raise AssertionError("a bad password was taken")


def refused_address(config):
    conn = plain(config)
    for address in ("/devices/canary/messages/events", "/nonsense"):
        for make in (conn.create_sender, conn.create_receiver):
            try:
                make(address)
                raise AssertionError("%s was attached" % address)
            except LinkDetached as err:
                check(err.condition.startswith("amqp:"), "condition %s" % err.condition)
    conn.close()


def twin(config):
    conn = plain(config)
    address = config["path"] + "/twin"
    sender, receiver = conn.create_sender(address), conn.create_receiver(address, credit=10)
    for i, operation in enumerate(("GET", "PATCH", "GET")):
        m = Message(correlation_id="c%d" % i, body=json.dumps({"proton": unique()}).encode() if operation == "PATCH" else b" ", inferred=True)
        m.annotations = {"operation": operation}
        if operation == "PATCH":
            m.annotations["resource"] = "/properties/reported"
        sender.send(m, timeout=10)
        answer = receiver.receive(timeout=10)
        receiver.accept()
        same(answer.correlation_id, "c%d" % i, "correlation id")
        same(answer.annotations["status"], 204 if operation == "PATCH" else 200, "status")
        if operation == "GET":
            same(sorted(json.loads(bytes(answer.body))), ["desired", "reported"], "sections")
    conn.close()


def heartbeat(config):
    conn = plain(config, heartbeat=2)
    sender = conn.create_sender(config["path"] + "/messages/events")
    end = time.monotonic() + 7
    while time.monotonic() < end:  # Proton beats only while it runs
        conn.wait(lambda: time.monotonic() > end, timeout=10)
    case = unique()
    sender.send(message(config, case), timeout=10)
    conn.close()
    return {"arrives": [arrival(config, case)]}


run({
    "SASL PLAIN, sender at least once": telemetry(AtLeastOnce(), plain),
    "SASL PLAIN, sender at most once": telemetry(AtMostOnce(), plain),
    "no SASL, token over $cbs": telemetry(AtLeastOnce(), by_token),
    "255 KiB, and 400 KiB refused": large,
    "tokens with ids of each type, good and bad": tokens,
    "wrong password": refused_password,
    "addresses that are not its own refused": refused_address,
    "twin get and patch": twin,
    "heartbeats of 2 s": heartbeat,
})
