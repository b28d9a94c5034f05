#!/usr/bin/env python3
"""What scripts/remote.sh needs of a network and a bucket. Nothing but Python's standard library, boto3 for `upload`,
azure-storage-blob for `upload-az`.

    remote.py weights FILE BYTES                     Gaussian BF16 weights in a safetensors file
    remote.py serve DIR PORTFILE [--rate B] [--each B] [--delay MS] [--cert PEM] [--redirect URL]
                                                     a web server with ranges and an index page, whose answers share RATE bytes a
                                                     second (EACH for each of them) and begin DELAY after the request; /.counts
                                                     tells and resets counters. With a certificate and its key: https. With
                                                     REDIRECT all that is asked for is elsewhere
    remote.py fetch URL FILE                         downloads with one request
    remote.py upload ENDPOINT BUCKET DIR             makes a bucket of the files of DIR
    remote.py upload-az ENDPOINT CONTAINER DIR       the same in azurite
"""
import argparse
import array
import json
import os
import random
import socketserver
import ssl
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path

PIECE = 128 << 10


def weights(path, size):
    draw = random.Random(1)
    numbers = array.array("f", (draw.gauss(0, 0.02) for _ in range(4 << 20)))
    block = bytearray(2 * len(numbers))
    raw = numbers.tobytes()
    block[0::2], block[1::2] = raw[2::4], raw[3::4]
    tensors, at = {}, 0
    length = 64 << 20
    while at < size:
        tensors[f"layer.{len(tensors)}"] = {
            "dtype": "BF16", "shape": [length // 8192, 4096], "data_offsets": [at, at + length]
        }
        at += length
    header = json.dumps(tensors).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        for n in range(at // len(block)):
            turn = 2 * draw.randrange(len(block) // 2)
            f.write(block[turn:] + block[:turn])


class Link:
    """A rate that all share: who sends waits until it is his turn."""

    def __init__(self, rate):
        self.rate, self.lock, self.free = rate, threading.Lock(), 0.0

    def take(self, size):
        if not self.rate:
            return
        with self.lock:
            now = time.monotonic()
            # what was not used a moment ago may be used now, as in a queue of a router
            self.free = max(self.free, now - 0.005) + size / self.rate
            wait = self.free - now
        if wait > 0:
            time.sleep(wait)


class Counts:
    def __init__(self):
        self.lock, self.requests, self.bytes, self.connections = threading.Lock(), 0, 0, 0

    def add(self, requests, size, connections=0):
        with self.lock:
            self.connections += connections
            self.requests += requests
            self.bytes += size

    def take(self):
        with self.lock:
            now = {"requests": self.requests, "bytes": self.bytes, "connections": self.connections}
            self.requests = self.bytes = self.connections = 0
            return now


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        time.sleep(self.server.delay)  # the handshake

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(headers.get("X-Length", len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(self.path.split("?")[0])
        if path == "/.counts":
            return self.answer(200, {}, json.dumps(self.server.counts.take()).encode())
        self.server.counts.add(1, 0)
        time.sleep(self.server.delay)
        if self.server.redirect:
            return self.answer(302, {"Location": self.server.redirect + self.path})
        file = (self.server.root / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.server.root) or not file.exists():
            return self.answer(404, {})
        if file.is_dir():
            names = sorted(entry.name + "/" * entry.is_dir() for entry in file.iterdir())
            page = "".join(f'<a href="{urllib.parse.quote(name)}">{name}</a>\n' for name in names).encode()
            return self.answer(200, {"Content-Type": "text/html"}, page)
        meta = file.stat()
        etag, first, end = f'"{meta.st_mtime_ns:x}-{meta.st_size:x}"', 0, meta.st_size
        if self.headers.get("If-Match", etag) != etag:
            return self.answer(412, {})
        asked = self.headers.get("Range")
        if asked:
            low, high = asked.removeprefix("bytes=").split("-")
            first, end = int(low), min(end, int(high or end) + 1)
            if first >= meta.st_size:
                return self.answer(416, {"Content-Range": f"bytes */{meta.st_size}"})
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{meta.st_size}")
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", self.date_time_string(meta.st_mtime))
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.flush()
        own = Link(self.server.each)
        with open(file, "rb") as f:
            while first < end:
                size = min(PIECE, end - first)
                self.server.link.take(size)
                own.take(size)
                if self.server.context:
                    self.wfile.write(os.pread(f.fileno(), size, first))
                    sent = size
                else:
                    sent = os.sendfile(self.connection.fileno(), f.fileno(), first, size)
                self.server.counts.add(0, sent)
                first += sent


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def get_request(self):
        connection, address = super().get_request()
        self.counts.add(0, 0, 1)
        if self.context:
            # the handshake is the business of the connection's own thread
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *_):
        pass  # clients go when they have enough


def serve(root, portfile, rate, each, delay, cert, redirect):
    server = Server(("127.0.0.1", 0), Handler)
    server.each, server.redirect, server.context = each, redirect, None
    if cert:
        server.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.context.load_cert_chain(cert)
    server.root, server.link, server.delay, server.counts = Path(root).resolve(), Link(rate), delay / 1000, Counts()
    Path(portfile + ".tmp").write_text(str(server.server_address[1]))
    os.rename(portfile + ".tmp", portfile)
    server.serve_forever()


def fetch(url, path):
    with urllib.request.urlopen(url) as body, open(path, "wb") as f:
        while piece := body.read(1 << 20):
            f.write(piece)


def upload(endpoint, bucket, directory):
    import boto3

    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket=bucket)
    for file in Path(directory).rglob("*"):
        if file.is_file():
            # a bucket of Google is asked without a signature
            key, public = "models/x/" + str(file.relative_to(directory)), {"ACL": "public-read"}
            s3.upload_file(str(file), bucket, key, ExtraArgs=public)
    # as consoles mark directories
    s3.put_object(Bucket=bucket, Key="models/x/", Body=b"", ACL="public-read")


# the key that azurite's documentation gives for its only account
AZURITE = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def upload_az(endpoint, name, directory):
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": "devstoreaccount1", "account_key": AZURITE}
    container = BlobServiceClient(endpoint + "/devstoreaccount1", credential=credential).create_container(name)
    for file in Path(directory).rglob("*"):
        if file.is_file():
            container.upload_blob("models/x/" + str(file.relative_to(directory)), file.read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["weights", "serve", "fetch", "upload", "upload-az"])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--each", type=float, default=0)
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--cert")
    parser.add_argument("--redirect")
    args = parser.parse_args()
    match args.verb, args.words:
        case "weights", [path, size]:
            weights(path, int(size))
        case "serve", [root, portfile]:
            serve(root, portfile, args.rate, args.each, args.delay, args.cert, args.redirect)
        case "fetch", [url, path]:
            fetch(url, path)
        case "upload", [endpoint, bucket, directory]:
            upload(endpoint, bucket, directory)
        case "upload-az", [endpoint, container, directory]:
            upload_az(endpoint, container, directory)
        case _:
            parser.error("see --help")


if __name__ == "__main__":
    sys.exit(main())
