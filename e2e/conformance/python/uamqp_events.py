"""Reads telemetry of iothub with uAMQP as `az iot hub monitor-events` does: a redirect
from the hub, the event hub's properties by $management, then each partition from a
time on, with a number that is not in quotes."""
import base64
import hashlib
import hmac
import time
import urllib.parse

import uamqp
from uamqp import authentication, errors

from scenario import check, run, same, unique, wait

state = {}


def token(resource, name, key):
    sr, expiry = urllib.parse.quote_plus(resource), int(time.time()) + 3600
    digest = hmac.new(base64.b64decode(key), ("%s\n%d" % (sr, expiry)).encode(), hashlib.sha256).digest()
    return "SharedAccessSignature sr=%s&sig=%s&se=%d&skn=%s" % (sr, urllib.parse.quote_plus(base64.b64encode(digest)), expiry, name)


def login(config):
    return dict(field.split("=", 1) for field in config["service"].split(";"))


def redirect(config):
    policy = login(config)
    name, key = policy["SharedAccessKeyName"], policy["SharedAccessKey"]
    user = "%s@sas.root.%s" % (name, config["hub"].split(".")[0])
    auth = authentication.SASLPlain(config["host"], user, token(config["hub"], name, key), port=5671, verify=config["ca"])
    client = uamqp.ReceiveClient(uamqp.address.Source("amqps://%s/messages/events/$management" % config["host"]), auth=auth, prefetch=1,
                                 error_policy=errors.ErrorPolicy(max_retries=0))
    try:
        client.open()
        client.receive_message_batch(max_batch_size=1, timeout=10000)
    except errors.LinkRedirect as where:
        path = where.address.decode().replace("amqps://", "").split("/")[1]
        state.update(host=where.hostname.decode(), entity=path, name=name, key=key)
        return {"note": path}
    finally:
        client.close()
    raise AssertionError("there was no redirect")


def by_token(config, key=None):
    return authentication.SASTokenAuth.from_shared_access_key(
        "sb://%s/%s" % (state["host"], state["entity"]), state["name"], key or state["key"], verify=config["ca"], port=5671)


def receiver(config, source, auth):
    return uamqp.ReceiveClient(source, auth=auth, prefetch=5, error_policy=errors.ErrorPolicy(max_retries=0))


def properties(config):
    source = uamqp.address.Source("amqps://%s/%s/$management" % (state["host"], state["entity"]))
    client = receiver(config, source, by_token(config))
    try:
        client.open()
        answer = client.mgmt_request(
            uamqp.Message(application_properties={b"name": state["entity"]}), b"READ", op_type=b"com.microsoft:eventhub",
            status_code_field=b"status-code", description_fields=b"status-description", timeout=30000)
        body = answer.get_data()
    finally:
        client.close()
    same(body[b"partition_count"], 4, "partitions")
    state["partitions"] = [p.decode() for p in body[b"partition_ids"]]
    same(state["partitions"], ["0", "1", "2", "3"], "ids")


def send(config, cases):
    user = config["path"][len("/devices/"):] + "@sas." + config["hub"].split(".")[0]
    auth = authentication.SASLPlain(config["host"], user, config["password"], port=5671, verify=config["ca"])
    client = uamqp.SendClient("amqps://%s:5671%s/messages/events" % (config["host"], config["path"]), auth=auth)
    for case in cases:
        client.queue_message(uamqp.Message(b"{}", properties=uamqp.message.MessageProperties(
            message_id=case, content_type="application/json", content_encoding="utf-8"), application_properties={b"case": case.encode()}))
    try:
        results = client.send_all_messages(close_on_done=False)
    finally:
        client.close()
    same(set(results), {uamqp.constants.MessageState.SendComplete}, "outcomes")


def read(config, partition, since):
    """All events of the partition since a time in ms, until none comes for a while."""
    source = uamqp.address.Source("amqps://%s/%s/ConsumerGroups/$Default/Partitions/%s" % (state["host"], state["entity"], partition))
    source.set_filter(b"amqp.annotation.x-opt-enqueuedtimeutc > " + str(since).encode())
    client = receiver(config, source, by_token(config))
    got = []
    try:
        client.open()
        wait(client.client_ready, "link")
        while True:
            batch = client.receive_message_batch(timeout=2500)
            if not batch:
                return got
            got.extend(batch)
    finally:
        client.close()


def monitor(config):
    old = [unique() for _ in range(3)]
    send(config, old)
    time.sleep(0.05)
    since = time.time() * 1000  # a float, which the command prints as it is
    new = [unique() for _ in range(30)]
    send(config, new)
    found = [m for partition in state["partitions"] for m in read(config, partition, since)]
    check(found, "nothing was read since %s" % since)
    mine = [m for m in found if m.application_properties and m.application_properties.get(b"case", b"").decode() in old + new]
    same([m.application_properties[b"case"].decode() for m in mine], new, "events")
    for number, m in enumerate(mine):
        annotations = m.annotations
        same(annotations[b"iothub-connection-device-id"], config["device"].encode(), "origin")
        same(annotations[b"iothub-message-source"], b"Telemetry", "source")
        check(isinstance(annotations[b"x-opt-offset"], bytes), "the offset is no text")
        same(annotations[b"x-opt-sequence-number"], mine[0].annotations[b"x-opt-sequence-number"] + number, "sequence number")
        same((m.properties.content_type, m.properties.content_encoding), (b"application/json", b"utf-8"), "content")


def bad_key(config):
    source = uamqp.address.Source("amqps://%s/%s/ConsumerGroups/$Default/Partitions/0" % (state["host"], state["entity"]))
    client = receiver(config, source, by_token(config, base64.b64encode(b"x" * 32).decode()))
    try:
        client.open()
        client.receive_message_batch(timeout=3000)
    except (errors.AuthenticationException, errors.TokenAuthFailure, errors.AMQPConnectionError):
        return
    finally:
        client.close()
    raise AssertionError("it was taken")


run({"redirect": redirect, "event hub properties": properties, "events from a time on": monitor, "bad key refused": bad_key})
