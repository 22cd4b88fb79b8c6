"""An echo that reports what it received, over HTTP/1.1, HTTP/2, WebSocket, gRPC and TCP, with and without TLS."""
