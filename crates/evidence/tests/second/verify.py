"""A second verifier of bundles, written from docs/bundle-format.md with the standard library alone.

Prints the main figures as JSON, or fails with what does not hold.
"""
import base64
import gzip
import hashlib
import json
import sys

CLOSING = ["proofs.json", "checkpoint", "test-result.dsse.json", "measurement.dsse.json", "key.pub"]


def sha256(data):
    return hashlib.sha256(data).digest()


def need(condition, what):
    if not condition:
        raise SystemExit(f"does not hold: {what}")


# Ed25519, RFC 8032, section 6.
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * a[3] * b[3] * D % P
    h = 2 * a[2] * b[2] % P
    x, y, z, t = f - e, h - g, h + g, f + e
    return (x * y % P, z * t % P, y * z % P, x * t % P)


def times(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def decompress(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P)
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    need((x * x - x2) % P == 0, "a point of the curve")
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


G = decompress((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def verifies(key, message, signature):
    if len(signature) != 64:
        return False
    r, s = decompress(signature[:32]), int.from_bytes(signature[32:], "little")
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % Q
    left, right = times(s, G), add(r, times(h, decompress(key)))
    same = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    return s < Q and same


def header(name, size):
    block = bytearray(512)
    for at, text in [(0, name), (100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (124, f"{size:011o}\0"),
                     (136, "00000000000\0"), (148, " " * 8), (156, "0"), (257, "ustar\x0000")]:
        block[at:at + len(text)] = text.encode()
    block[148:156] = f"{sum(block):07o}\0".encode()
    return bytes(block)


def unpack(data):
    parts, at = [], 0
    while any(data[at:at + 512]):
        block = data[at:at + 512]
        name, size = block[:100].rstrip(b"\0").decode(), int(block[124:135], 8)
        need(block == header(name, size), f"header of {name}")
        content = data[at + 512:at + 512 + size]
        end = at + 512 + -(-size // 512) * 512
        need(len(content) == size and not any(data[at + 512 + size:end]), f"content of {name}")
        parts.append((name, content))
        at = end
    need(data[at:] == bytes(1024), "end of the archive")
    return parts


class Columns:
    def __init__(self, data, magic):
        self.data, self.at = gzip.decompress(data), 4
        need(self.data[:4] == magic, f"columns {magic}")

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self):
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def times(self, count):
        value = step = 0
        for _ in range(count):
            step += self.signed()
            value += step
            yield value

    def optional(self):
        return self.number() if self.byte() else None


def samples(data, version):
    columns = Columns(data, b"FDS%d" % version)
    count = columns.number()
    due = list(columns.times(count))
    latency = [columns.signed() for _ in range(count)]
    outcome = [columns.number() for _ in range(count)]
    region = [columns.number() for _ in range(count)]
    tries = [columns.byte() for _ in range(count)]
    need(columns.at == len(columns.data), "end of the samples")
    return list(zip(due, latency, outcome, region, tries))


def writes(data):
    columns = Columns(data, b"FDW1")
    count = columns.number()
    sequences = list(columns.times(count))
    moments = []
    for _ in range(2):
        marks = [columns.byte() for _ in range(count)]
        given = columns.times(sum(marks))
        moments.append([next(given) if mark else None for mark in marks])
    for _ in range(2 * count):
        columns.optional()
    readbacks = []
    for _ in range(columns.number()):
        phase = bytes(columns.byte() for _ in range(columns.number())).decode()
        time, judged = columns.signed(), columns.number()
        readbacks.append((time, judged, phase, set(columns.times(columns.number()))))
    need(columns.at == len(columns.data), "end of the writes")
    return sequences, moments[1], readbacks


def root_of(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2."""
    number, last, node = index, size - 1, leaf
    for sibling in path:
        need(last != 0, "length of a path")
        if number & 1 or number == last:
            node = sha256(b"\1" + sibling + node)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            node = sha256(b"\1" + node + sibling)
        number, last = number >> 1, last >> 1
    need(last == 0, "length of a path")
    return node


class Digits(float):
    """A number that keeps the text it was read from, which is canonical already."""

    def __new__(cls, text):
        number = super().__new__(cls, text)
        number.text = text
        return number


def canonical(value):
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(canonical(name) + ":" + canonical(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return value.text if isinstance(value, Digits) else json.dumps(value, ensure_ascii=False)


def main(path):
    data = open(path, "rb").read()
    parts = unpack(data)
    part = dict(parts)
    manifest = json.loads(part["manifest.json"])
    version, drill, attempt = manifest["version"], manifest["drill"], manifest["attempt"]
    names = [name for name, _ in parts]
    need(names == ["manifest.json"] + [one["name"] for one in manifest["parts"]] + CLOSING, "order of the parts")
    for one in manifest["parts"]:
        content = part[one["name"]]
        need((len(content), sha256(content).hex()) == (one["size"], one["sha256"]), f"digest of {one['name']}")

    name, keyid, body = part["key.pub"].decode().strip().split("+", 2)
    body = base64.b64decode(body)
    key = body[1:]
    need(body[:1] == b"\1" and sha256(name.encode() + b"\n" + body)[:4].hex() == keyid, "id of the key")
    need(name == "firedrill.dev/ledger/" + sha256(key)[:8].hex(), "name of the key")
    text, signatures = part["checkpoint"].decode().rsplit("\n\n", 1)
    origin, size, root = text.split("\n")
    signature = base64.b64decode(signatures.split(" ")[2])
    need(origin == name and signature[:4].hex() == keyid, "origin of the checkpoint")
    need(verifies(key, (text + "\n").encode(), signature[4:]), "signature of the checkpoint")
    size, root = int(size), base64.b64decode(root)

    number, seal, last = 0, None, -1
    for proof in json.loads(part["proofs.json"], parse_float=Digits):
        entry = proof["entry"]
        leaf = sha256(b"\0" + canonical(entry).encode())
        path = [base64.b64decode(one) for one in proof["path"]]
        need(root_of(leaf, entry["index"], size, path) == root, f"proof of entry {entry['index']}")
        body = entry["body"]
        need(entry["index"] > last and body["drill"] == drill, "order of the entries")
        last = entry["index"]
        if entry["kind"] == "attemptRegistered":
            number += 1
            need(body["number"] == number, "number of an attempt")
            if entry.get("version", 1) > 1 and number > 1:
                need(body["previous"] == {"entry": seal[0], "leaf": seal[1].hex()}, "seal before a registration")
            registered = body
        else:
            need(body["number"] == number, "seal of an attempt")
            seal = (entry["index"], leaf, body, entry.get("version", 1))
    results = json.loads(part["results.json"])
    need(number == attempt and seal[2]["number"] == attempt, "seal of this attempt")
    need(seal[2]["manifest"] == "sha256:" + sha256(part["manifest.json"]).hex(), "sealed manifest")
    need(seal[2]["verdict"] == results["verdict"], "sealed verdict")
    need(registered["digest"] == "sha256:" + sha256(part["registered.json"]).hex(), "registered plan")
    need(seal[3] == 1 or size == seal[0] + 1, "size of the checkpoint")

    signed = [one["name"] for one in manifest["parts"]] if seal[3] == 1 else names[:-3]
    subject = [{"name": one, "digest": {"sha256": sha256(part[one]).hex()}} for one in signed]
    for name in CLOSING[2:4]:
        envelope = json.loads(part[name])
        payload = base64.b64decode(envelope["payload"])
        message = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
        need(envelope["payloadType"] == "application/vnd.in-toto+json", name)
        need(verifies(key, message, base64.b64decode(envelope["signatures"][0]["sig"])), f"signature of {name}")
        statement = json.loads(payload)
        need(statement["subject"] == subject, f"subject of {name}")
    need(statement["predicateType"].endswith(f"measurement/v{version}"), "type of the measurement")
    need(statement["predicate"] == results, "measured values in the statement")

    probes, sampled, lost = json.loads(part["probes.json"]), [], 0
    for at, probe in enumerate(probes):
        rows = samples(part[f"samples/{at:04}.bin.gz"], version)
        good = [row[2] == 0 and (probe["timeout"] <= 0 or row[1] <= probe["timeout"]) for row in rows]
        sampled.append((probe, rows, good))
        if probe["writes"] is not None:
            sequences, acknowledged, readbacks = writes(part[f"writes/{at:04}.bin.gz"])
            readbacks.sort(key=lambda one: one[0])
            for sequence, time in zip(sequences, acknowledged):
                judges = [found for _, judged, _, found in readbacks if sequence < judged]
                lost += time is not None and bool(judges) and sequence not in judges[-1]
    print(json.dumps({
        "drill": drill, "attempt": attempt, "version": version, "verdict": results["verdict"], "lost": lost,
        "offered": [len(rows) for _, rows, _ in sampled], "failed": [good.count(False) for _, _, good in sampled],
        "recovery": recovery(part, sampled) if version == 1 else None,
    }))


def recovery(part, sampled):
    """t7 - t1 in seconds by the rules of format 1; null without a frame or an outage."""
    times, head = {}, json.loads(part["attempt.json"])
    for point in json.loads(part["timeline.json"]):
        times[point["point"]] = min(point["time"], times.get(point["point"], point["time"]))
    phases = {phase["name"]: phase for phase in head["phases"]}
    starts = [times[point] for point in ("t0c", "t0e") if point in times]
    if not starts or not any(rows for _, rows, _ in sampled):
        return None
    start, sustain, rate = min(starts), max(head["objectives"]["sustain"], 1), head["objectives"]["successRate"]
    limit = head["objectives"]["latencyP99"]
    ends = [times.get("t8"), phases.get("failback", {}).get("from"), phases.get("fault", {}).get("to")]
    ends = [end for end in ends if end is not None and end > start]
    end = min(ends) if ends else min(rows[-1][0] + probe["interval"] for probe, rows, _ in sampled)
    firsts = []
    for probe, rows, good in sampled:
        caught = [row[0] for row, ok in zip(rows, good)
                  if not ok and start - max(probe["timeout"], 0) <= row[0] < start and row[0] + row[1] >= start]
        failed = caught or [row[0] for row, ok in zip(rows, good) if not ok and start <= row[0] < end]
        firsts += [max(failed[0], start)] if failed else []
    if not firsts:
        return None
    t1 = min(firsts)

    def holds(t, probe, rows, good):
        to, slack = t + sustain, probe["interval"] * 3 // 2
        before = [ok for row, ok in zip(rows, good) if row[0] <= t]
        inside = [(row, ok) for row, ok in zip(rows, good) if t <= row[0] < to]
        dues = [t] + [row[0] for row, _ in inside] + [to]
        if (before and not before[-1]) or not inside or any(b - a > slack for a, b in zip(dues, dues[1:])):
            return False
        reached = lambda some: sum(ok for _, ok in some) * 100 >= rate * len(some) * (1 - 1e-9)
        at = t
        while at < to:
            slice_ = [one for one in inside if at <= one[0][0] < min(at + 10**9, to)]
            fast = sum(ok and (limit is None or row[1] <= limit) for row, ok in slice_)
            if not reached(slice_) or fast < -(-99 * sum(ok for _, ok in slice_) // 100):
                return False
            at += 10**9
        first = [one for one in inside if one[0][0] < t + 10**9]
        return all(reached(first[:count + 1]) for count in range(len(first)))

    candidates = sorted({row[0] for _, rows, _ in sampled for row in rows if t1 <= row[0] < end})
    t7 = next((t for t in candidates if t + sustain <= end and all(holds(t, *one) for one in sampled)), None)
    return None if t7 is None else round((t7 - t1) / 1e9, 6)


main(sys.argv[1])
