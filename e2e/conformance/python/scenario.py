"""What the scenarios in Python share: the protocol of ../node/scenario.js. One line
of JSON comes in and says what to do, and one line for each feature goes out."""
import json
import sys
import time
import traceback
import uuid


def write(event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def same(got, want, what):
    check(got == want, "%s: got %r, want %r" % (what, got, want))


def wait(condition, what, seconds=20):
    """Waits until condition() is true, and returns what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError("%s: nothing within %d s" % (what, seconds))


def ask(what):
    """Has the harness do something, as "restart": kill the hub and start it anew."""
    write({"ask": what})
    answer = json.loads(sys.stdin.readline())
    check(answer["ok"], "%s: %s" % (what, answer.get("error")))


def arrival(config, case, **more):
    """What must arrive in the cloud of a message with the property "case"."""
    return {"case": case, "origin": config["device"], "module": config.get("module", ""), **more}


def unique():
    return str(uuid.uuid4())


def run(features):
    """Tries the features that the harness asked for: functions by name, which get the
    configuration and may return what must arrive."""
    config = json.loads(sys.stdin.readline())
    for name in config["features"]:
        began = time.monotonic()
        result = {"feature": name, "ok": True}
        try:
            result.update(features[name](config) or {})
        except Exception as err:  # one that fails is a row of the table
            result = {"feature": name, "ok": False, "error": "%s: %s" % (type(err).__name__, err)}
            traceback.print_exc()
        result["ms"] = int(1000 * (time.monotonic() - began))
        write(result)
