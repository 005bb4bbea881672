"""Paho as a generic MQTT 3.1.1 client of either hub: it knows nothing of IoT Hub but
the topics that are given here."""
import json
import socket
import ssl
import time

import paho.mqtt.client as mqtt

from scenario import arrival, ask, check, run, same, unique, wait


class Peer:
    """One client of Paho and what it has seen."""

    def __init__(self, config, client_id=None, username=None, password=None, clean=True, websocket=None, will=None):
        self.config = config
        self.messages, self.codes, self.grants, self.acked = [], [], {}, set()
        self.lost = []
        websocket = config["transport"] == "mqtt-ws" if websocket is None else websocket
        self.client = mqtt.Client(client_id or config["client_id"], clean_session=clean, transport="websockets" if websocket else "tcp")
        self.port = 443 if websocket else 8883
        if websocket:
            self.client.ws_set_options(path="/$iothub/websocket")
        self.client.username_pw_set(username or config["username"], password or config["password"])
        self.client.tls_set(config["ca"], tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.client.reconnect_delay_set(1, 2)
        if will:
            self.client.will_set(*will)
        self.client.on_connect = lambda c, u, flags, code: self.codes.append((code, flags["session present"]))
        self.client.on_disconnect = lambda c, u, code: self.lost.append(code)
        self.client.on_message = lambda c, u, m: self.messages.append(m)
        self.client.on_subscribe = lambda c, u, mid, granted: self.grants.__setitem__(mid, granted)
        self.client.on_publish = lambda c, u, mid: self.acked.add(mid)

    def connect(self, keepalive=60):
        self.client.connect(self.config["host"], self.port, keepalive)
        self.client.loop_start()
        return self

    def connected(self, keepalive=60):
        self.connect(keepalive)
        code, _ = wait(lambda: self.codes, "CONNACK")[0]
        same(code, 0, "CONNACK")
        return self

    def subscribe(self, topic, qos=1):
        _, mid = self.client.subscribe(topic, qos)
        return wait(lambda: self.grants.get(mid), "SUBACK")

    def publish(self, topic, payload, qos=1, retain=False):
        info = self.client.publish(topic, payload, qos, retain)
        wait(lambda: info.mid in self.acked, "PUBACK")

    def got(self, prefix):
        return next((m for m in self.messages if m.topic.startswith(prefix)), None)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def drop(self):
        """Ends the connection without a goodbye."""
        self.client.reconnect_delay_set(60, 60)
        raw = self.client.socket()
        if hasattr(raw, "shutdown"):
            raw.shutdown(socket.SHUT_RDWR)
        else:
            raw.close()  # Paho's WebSocket
        self.client.loop_stop()


def events(config, case, bag=""):
    topic = config["events"]
    return topic + ("&" if topic[-1] != "/" else "") + "case=" + case + bag


def telemetry(qos):
    def feature(config):
        peer = Peer(config).connected()
        cases = [unique() for _ in range(20)]
        for case in cases:
            peer.publish(events(config, case, "&a%20b=c%26d&plus=a%2Bb&empty=&%24.mid=m-" + case), "text %s" % case, qos)
        peer.close()
        return {"arrives": [
            arrival(config, c, application={"a b": "c&d", "plus": "a+b", "empty": ""}, system={"message_id": "m-" + c}, text="text %s" % c)
            for c in cases], "ordered": True}
    return feature


def retained(config):
    peer = Peer(config).connected()
    case = unique()
    peer.publish(events(config, case), "r", 1, True)
    peer.close()
    return {"arrives": [arrival(config, case, application={"mqtt-retain": "true"})]}


def binary(config):
    peer = Peer(config).connected()
    cases = [unique(), unique()]
    peer.publish(events(config, cases[0]), b"")
    peer.publish(events(config, cases[1]), b"x" * (250 * 1024))
    peer.close()
    return {"arrives": [arrival(config, cases[0]), arrival(config, cases[1], text="x" * (250 * 1024))]}


def twin(config):
    peer = Peer(config).connected()
    same(tuple(peer.subscribe("$iothub/twin/res/#")), (1,), "SUBACK")
    peer.publish("$iothub/twin/GET/?$rid=ab-1", " ", 0)
    answer = wait(lambda: peer.got("$iothub/twin/res/200/?$rid=ab-1"), "twin")
    document = json.loads(answer.payload)
    same(sorted(document), ["desired", "reported"], "sections")
    check("$version" in document["desired"] and "$version" in document["reported"], "no $version")
    peer.publish("$iothub/twin/PATCH/properties/reported/?$rid=ab-2", json.dumps({"paho": unique()}), 1)
    answer = wait(lambda: peer.got("$iothub/twin/res/204/?$rid=ab-2"), "answer to a patch")
    same(answer.payload, b"", "body of 204")
    peer.publish("$iothub/twin/PATCH/properties/reported/?$rid=ab-3", "[1", 1)
    wait(lambda: peer.got("$iothub/twin/res/400/?$rid=ab-3"), "refusal of broken JSON")
    peer.close()


def resumption(config):
    peer = Peer(config, clean=True).connected()  # forgets what was
    peer.close()
    peer = Peer(config, clean=False).connected()
    same(peer.codes[0][1], 0, "session present at first")
    peer.subscribe("$iothub/twin/res/#")
    peer.close()
    peer = Peer(config, clean=False).connected()
    same(peer.codes[0][1], 1, "session present")
    peer.publish("$iothub/twin/GET/?$rid=again", " ", 0)
    wait(lambda: peer.got("$iothub/twin/res/200/?$rid=again"), "twin without a new SUBSCRIBE")
    peer.close()


def resumption_after_kill(config):
    peer = Peer(config, clean=False).connected()
    peer.subscribe("$iothub/twin/res/#")
    ask("restart")
    wait(lambda: len(peer.codes) > 1 and peer.codes[-1][0] == 0, "reconnection", 40)
    same(peer.codes[-1][1], 1, "session present")
    peer.publish("$iothub/twin/GET/?$rid=later", " ", 0)
    wait(lambda: peer.got("$iothub/twin/res/200/?$rid=later"), "twin without a new SUBSCRIBE")
    peer.close()
    Peer(config, clean=True).connected().close()


def will_sent(config):
    case = unique()
    Peer(config, will=(events(config, case), "gone", 1, False)).connected().drop()
    return {"arrives": [arrival(config, case, application={"iothub-MessageType": "Will"}, text="gone")]}


def will_withheld(config):
    case = unique()
    Peer(config, will=(events(config, case), "gone", 1, False)).connected().close()
    return {"absent": [case]}


def takeover(config):
    first = Peer(config).connected()
    first.client.reconnect_delay_set(60, 60)
    second = Peer(config).connected()
    wait(lambda: first.lost, "end of the older connection")
    first.client.loop_stop()
    case = unique()
    second.publish(events(config, case), "newest")
    check(not second.lost, "the newest was lost")
    second.close()
    return {"arrives": [arrival(config, case)]}


def refused(code, **changes):
    def feature(config):
        if config.get("edge") and isinstance(code, dict):
            want = code["edgehub"]
        else:
            want = code["iothub"] if isinstance(code, dict) else code
        peer = Peer(config, **{k: v.format(**config) for k, v in changes.items()})
        peer.client.reconnect_delay_set(60, 60)
        peer.connect()
        got, _ = wait(lambda: peer.codes, "CONNACK")[0]
        peer.client.loop_stop()
        same(got, want, "CONNACK")
    return feature


def spoofed(config):
    peer = Peer(config).connected()
    peer.client.reconnect_delay_set(60, 60)
    case = unique()
    peer.client.publish("devices/somebody/messages/events/case=" + case, "x", 1)
    wait(lambda: peer.lost, "end of the connection")
    peer.client.loop_stop()
    return {"absent": [case]}


def sender_claimed(config):
    """The sender is who has logged in, whatever the bag says."""
    peer = Peer(config).connected()
    case = unique()
    peer.publish(events(config, case, "&%24.cdid=somebody&%24.cmid=else"), "x")
    peer.close()
    return {"arrives": [arrival(config, case)]}


def keepalive(config):
    peer = Peer(config).connected(keepalive=2)
    time.sleep(7)  # more than three times as long
    check(not peer.lost, "the connection was lost although it pinged")
    peer.close()


run({
    "telemetry, QoS 0": telemetry(0),
    "telemetry, QoS 1": telemetry(1),
    "retain flag": retained,
    "empty message and one of 250 KiB": binary,
    "twin": twin,
    "session resumption": resumption,
    "session resumption after the hub was killed": resumption_after_kill,
    "will after a lost connection": will_sent,
    "no will after a goodbye": will_withheld,
    "takeover: the newest wins": takeover,
    "wrong password": refused(5, password="SharedAccessSignature sr={host}&sig=AAAA&se=9999999999"),
    "password that is no token": refused(5, password="secret"),
    "client id that differs": refused(5, client_id="somebody"),
    "user name without api-version": refused({"iothub": 5, "edgehub": 3}, username="{hub}/{client_id}/nonsense"),
    "spoofed topic ends the connection": spoofed,
    "spoofed sender is overwritten": sender_claimed,
    "keep-alive by pings": keepalive,
})
