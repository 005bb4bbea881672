"""uAMQP, the C engine of the SDKs for C and Python and of the az command, against
either hub."""
import time

import uamqp
from uamqp import authentication, errors

from scenario import arrival, run, same, unique


def plain(config, password=None):
    user = config["path"][len("/devices/"):] + "@sas." + config["hub"].split(".")[0]
    return authentication.SASLPlain(config["host"], user, password or config["password"], port=5671, verify=config["ca"])


def by_token(config, token=None):
    """The URI is the address that is used, the audience what the token is for."""
    return authentication.SASTokenAuth(
        config["resource"], "amqps://" + config["host"] + config["path"], token or config["password"], hostname=config["host"].encode(), port=5671, verify=config["ca"],
        expires_at=int(time.time()) + 3600)


def send(config, auth, bodies):
    client = uamqp.SendClient("amqps://%s:5671%s/messages/events" % (config["host"], config["path"]), auth=auth,
                              error_policy=errors.ErrorPolicy(max_retries=0))
    cases = [unique() for _ in bodies]
    for case, body in zip(cases, bodies):
        properties = {b"case": case.encode()}
        if config.get("module"):
            properties[b"iothub-outputname"] = b"up"
        client.queue_message(uamqp.Message(body, properties=uamqp.message.MessageProperties(message_id="m-" + case), application_properties=properties))
    try:
        results = client.send_all_messages(close_on_done=False)
    finally:
        client.close()
    same([r for r in results if r != uamqp.constants.MessageState.SendComplete], [], "outcomes")
    return {"arrives": [arrival(config, c, system={"message_id": "m-" + c}, text=b.decode()) for c, b in zip(cases, bodies)], "ordered": True}


def refused(make):
    def feature(config):
        try:
            send(config, make(config), [b"x"])
        except (errors.AuthenticationException, errors.TokenAuthFailure, errors.AMQPConnectionError):
            return
        raise AssertionError("it was taken")
    return feature


def bad_token(config):
    return by_token(config, config["wrong"])


run({
    "SASL PLAIN": lambda config: send(config, plain(config), [b"m%d" % i for i in range(50)]),
    "MSSBCBS and a token": lambda config: send(config, by_token(config), [b"m%d" % i for i in range(50)]),
    "255 KiB": lambda config: send(config, by_token(config), [b"x" * (255 * 1024)]),
    "wrong password": refused(lambda config: plain(config, "SharedAccessSignature sr=x&sig=AAAA&se=9999999999")),
    "bad token": refused(bad_token),
})
