"""A plain HTTP server whose answers are JSON, for programs that are profiled without a change."""

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def serve(port, answer):
    """Prints `ready PORT` and answers each request with what `answer(path)` gives, until SIGTERM or
    SIGINT ends it in order."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self):
            body = json.dumps(answer(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = reply

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def end(*_):
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(f"ready {server.server_address[1]}", flush=True)
    server.serve_forever()
