#!/usr/bin/env python3
"""Serve a directory as one repository of the Hugging Face Hub, as far as huggingface_hub needs that to download it.

    hub_server.py DIR ORG/NAME        prints its address, and serves until it is ended
"""
import hashlib
import http.server
import json
import sys
from pathlib import Path

ROOT, REPO = Path(sys.argv[1]), sys.argv[2]
FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file())
DIGESTS = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in FILES}
COMMIT = hashlib.sha1("".join(DIGESTS.values()).encode()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body, headers=(), status=200):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        prefix = f"/{REPO}/resolve/"
        if path.startswith(f"/api/models/{REPO}/tree/"):
            rows = [{"type": "file", "path": f, "size": (ROOT / f).stat().st_size, "oid": DIGESTS[f]} for f in FILES]
            self.answer(json.dumps(rows).encode(), [("Content-Type", "application/json")])
        elif path.startswith(f"/api/models/{REPO}"):
            info = {"id": REPO, "modelId": REPO, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0,
                    "siblings": [{"rfilename": name} for name in FILES]}
            self.answer(json.dumps(info).encode(), [("Content-Type", "application/json")])
        elif path.startswith(prefix) and path[len(prefix):].split("/", 1)[-1] in DIGESTS:
            name = path[len(prefix):].split("/", 1)[1]
            self.answer((ROOT / name).read_bytes(), [("ETag", f'"{DIGESTS[name]}"'), ("X-Repo-Commit", COMMIT)])
        else:
            self.answer(b"{}", [("X-Error-Code", "EntryNotFound")], 404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
