//! The applications behind sockets: HTTP, echo, hold.

/// An application for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// HTTP/1.1: `/` returns a small page, `/bytes/N` returns N bytes.
    Http,
    /// Echoes what it receives.
    Echo,
    /// Accepts and reads, but sends nothing.
    Hold,
}

/// The maximum size of a request's head, and of what a client stores, in bytes.
const HEAD_LIMIT: usize = 16 << 10;
const KEPT_LIMIT: usize = 16 << 20;
/// The maximum N of `/bytes/N`.
const BODY_LIMIT: usize = 128 << 20;

const PAGE: &str = "<!doctype html><title>WFP lab</title><p>This port is open.\n";

enum Kind {
    Http { head: Vec<u8> },
    Echo,
    Hold,
    Client { received: Vec<u8> },
}

/// The application of one connection.
pub(super) struct Session {
    kind: Kind,
    output: Vec<u8>,
    sent: usize,
    /// It closes the connection when everything is sent.
    pub close: bool,
}

impl Session {
    /// A server.
    pub fn server(application: Application) -> Self {
        let kind = match application {
            Application::Http => Kind::Http { head: Vec::new() },
            Application::Echo => Kind::Echo,
            Application::Hold => Kind::Hold,
        };
        Self::new(kind, Vec::new())
    }

    /// A client that sends a request and reads until the server closes.
    pub fn client(request: Vec<u8>) -> Self {
        let received = Vec::new();
        Self::new(Kind::Client { received }, request)
    }

    fn new(kind: Kind, output: Vec<u8>) -> Self {
        Self { kind, output, sent: 0, close: false }
    }

    /// Everything that a client has read; empty for a server.
    pub fn into_received(self) -> Vec<u8> {
        match self.kind {
            Kind::Client { received } => received,
            _ => Vec::new(),
        }
    }

    /// What a client has read so far.
    pub fn received(&self) -> &[u8] {
        match &self.kind {
            Kind::Client { received } => received,
            _ => &[],
        }
    }

    /// The next bytes to send, at most `limit`.
    pub fn pending(&self, limit: usize) -> &[u8] {
        let rest = &self.output[self.sent..];
        &rest[..rest.len().min(limit)]
    }

    /// Skips bytes that were sent, or removed from the stream.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// The peer has sent its FIN.
    pub fn peer_closed(&mut self) {
        self.close = true;
    }

    /// The peer has sent these bytes.
    pub fn data(&mut self, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Hold => {}
            Kind::Echo => self.output.extend_from_slice(bytes),
            Kind::Client { received } => {
                let room = KEPT_LIMIT.saturating_sub(received.len());
                received.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Kind::Http { head } => {
                head.extend_from_slice(bytes);
                while let Some(end) = find(head, b"\r\n\r\n") {
                    let request: Vec<u8> = head.drain(..end + 4).collect();
                    self.close |= respond(&request, &mut self.output);
                }
                if head.len() > HEAD_LIMIT {
                    head.clear();
                    write_response(&mut self.output, "431 Request Header Fields Too Large", 0);
                    self.close = true;
                }
            }
        }
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// Appends the answer to a request. Returns whether to close after it. Request
/// bodies are not read, because only GET and HEAD are served.
fn respond(request: &[u8], output: &mut Vec<u8>) -> bool {
    let text = String::from_utf8_lossy(request);
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    let (Some(method @ ("GET" | "HEAD")), Some(path), Some(version)) = (method, path, version) else {
        write_response(output, "405 Method Not Allowed", 0);
        return true;
    };
    let connection = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .map(|(_, value)| value.trim().to_ascii_lowercase());
    let body = match path.strip_prefix("/bytes/").map(str::parse::<usize>) {
        Some(Ok(length)) if length <= BODY_LIMIT => Some(vec![b'.'; length]),
        None if path == "/" => Some(PAGE.into()),
        _ => None,
    };
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    write_response(output, status, body.len());
    if method == "GET" {
        output.extend_from_slice(&body);
    }
    match connection.as_deref() {
        Some("close") => true,
        Some("keep-alive") => false,
        _ => version == "HTTP/1.0",
    }
}

fn write_response(output: &mut Vec<u8>, status: &str, length: usize) {
    let head = format!(
        "HTTP/1.1 {status}\r\nServer: wfp-machine\r\nContent-Type: text/html\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    output.extend_from_slice(head.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> (String, bool) {
        let mut session = Session::server(Application::Http);
        // Byte by byte, because a request may arrive in any pieces.
        for byte in request.as_bytes() {
            session.data(&[*byte]);
        }
        let answer = String::from_utf8(session.pending(usize::MAX).to_vec()).unwrap();
        (answer, session.close)
    }

    #[test]
    fn http_answers() {
        let (answer, close) = ask("GET /bytes/5 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n....."));
        assert!(!close);
        let (answer, close) = ask("HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\n") && close);
        for bad in ["/bytes/x", "/bytes/99999999999", "/other"] {
            let (answer, _) = ask(&format!("GET {bad} HTTP/1.1\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 404"), "{bad}");
        }
        assert!(ask("NONSENSE\r\n\r\n").1);
        assert!(ask(&"x".repeat(HEAD_LIMIT + 1)).1);
    }
}
