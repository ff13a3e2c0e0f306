"""Does huggingface_hub read the cache that `ns download` fills? Dev-only Python: huggingface_hub; a server on this machine.

    check_hub.py NS
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": os.urandom(3_000_000)}


def entry(name, data):
    e = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    if len(data) > 1000:
        e["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return e


class Hub(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            body = json.dumps({"sha": COMMIT, "siblings": [entry(k, v) for k, v in FILES.items()]}).encode()
        else:
            body = FILES[path.split("/")[-1]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


with tempfile.TemporaryDirectory() as tmp:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_HUB_CACHE"] = tmp
    env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    subprocess.run([sys.argv[1], "download", "org/tiny"], env=env, check=True, stdout=subprocess.DEVNULL)
    from huggingface_hub import scan_cache_dir, snapshot_download

    folder = snapshot_download("org/tiny", local_files_only=True)
    for name, data in FILES.items():
        with open(os.path.join(folder, name), "rb") as f:
            assert f.read() == data, name
    found = scan_cache_dir()
    assert not found.warnings and len(found.repos) == 1, found
    print(f"huggingface_hub finds the snapshot, {len(FILES)} files equal, no warnings")
