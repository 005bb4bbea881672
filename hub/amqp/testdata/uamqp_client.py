"""Runs a uAMQP client (the C engine of the Azure SDKs for C and Python and of
the az command) against the server of conformance_test.go, over TLS. Arguments:
the port on localhost, the file of the certificate."""
import sys
import time
import uamqp
from uamqp import authentication, errors

port, ca = int(sys.argv[1]), sys.argv[2]
base = "amqps://localhost:%d/" % port


def check(cond, what):
    if not cond:
        raise AssertionError(what)


def by_token(token):
    return authentication.SASTokenAuth(
        "sb://localhost/target", "sb://localhost/target", token, hostname=b"localhost", port=port, verify=ca,
        expires_at=int(time.time()) + 3600)


def by_password():
    return authentication.SASLPlain("localhost", "me", "secret", port=port, verify=ca)


def sending(auth):
    client = uamqp.SendClient(base + "target", auth=auth)
    for i in range(500):
        client.queue_message(uamqp.Message(b"m%d" % i, properties=uamqp.message.MessageProperties(message_id="id-%d" % i)))
    client.queue_message(uamqp.Message(b"x" * 300000))
    results = client.send_all_messages(close_on_done=False)
    check(all(r == uamqp.constants.MessageState.SendComplete for r in results), "sent")
    client.close()


def receiving(auth):
    client = uamqp.ReceiveClient(base + "source", auth=auth, prefetch=50, auto_complete=False)
    got = 0
    while got < 100:
        for m in client.receive_message_batch(max_batch_size=10, timeout=10000):
            check(b"".join(m.get_data()) == b"m%d" % got, "message %d" % got)
            check(m.annotations[b"x-opt-sequence-number"] == got, "annotation")
            (m.accept, m.reject, m.release, lambda: m.modify(True, False))[got % 4]()
            got += 1
            if got == 100:
                break
    client.close()


def refused(auth):
    client = uamqp.ReceiveClient(base + "nowhere", auth=auth, error_policy=errors.ErrorPolicy(max_retries=0))
    try:
        client.receive_message_batch(timeout=5000)
        raise AssertionError("attached")
    except errors.LinkDetach as e:
        check(e.condition == uamqp.constants.ErrorCodes.NotFound, "condition %s" % e.condition)
    client.close()


sending(by_token("good"))
sending(by_password())
receiving(by_password())
receiving(by_token("good"))
refused(by_password())
try:
    sending(by_token("bad"))
    raise AssertionError("a bad token was taken")
except (errors.AuthenticationException, errors.TokenAuthFailure):
    pass
print("ok")
