//! The demands. Numbers are of sections.

/// One demand and a request that shows whether it is met.
pub(super) struct Case {
    pub(super) demand: &'static str,
    pub(super) says: Vec<u8>,
    pub(super) want: Want,
    /// The connection must end.
    pub(super) closes: bool,
    /// No body follows the answer's head.
    pub(super) is_head: bool,
}

type Check = fn(&str) -> bool;

/// What the client must get. Checks look at small letters.
pub(super) enum Want {
    /// One of these, as the final status.
    Status(&'static [u16]),
    /// Any error of the client's, or no answer and the end of the connection.
    Refused,
    /// That, or a request at the back end that is so.
    RefusedOr(&'static [Check]),
    /// A request at the back end that is so.
    Passes(&'static [Check]),
    /// An answer whose bytes are so.
    Answers(Check),
    /// These, one after the other.
    Statuses(Vec<u16>),
}

fn get(lines: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n")
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n{body}")
}

fn answer(name: &str) -> String {
    format!("GET /answer/{name} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

fn head(request: &str) -> &str {
    request.split("\r\n\r\n").next().unwrap_or_default()
}

const AFTER: &str = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    let mut all = requests();
    all.extend(framing());
    all.extend(forwarding());
    all.extend(answers());
    all
}

fn case(demand: &'static str, says: impl Into<Vec<u8>>, want: Want) -> Case {
    Case { demand, says: says.into(), want, closes: false, is_head: false }
}

/// RFC 9112, 2 to 5: lines, targets, headers.
fn requests() -> Vec<Case> {
    use Want::*;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", "a".repeat(100_000));
    vec![
        case("a plain request passes", get(""), Passes(&[])),
        case(
            "2.2: an empty line before a request is ignored",
            format!("\r\n{}", get("")),
            Passes(&[]),
        ),
        case(
            "2.2: a bare LF is refused or made CRLF",
            get("X-A: 1\n"),
            RefusedOr(&[|seen| !seen.replace("\r\n", "").contains('\n')]),
        ),
        case(
            "2.2: a bare CR is refused or made a space",
            get("X-A: 1\rX-B: 2\r\n"),
            RefusedOr(&[|seen| !seen.replace("\r\n", "").contains('\r')]),
        ),
        case(
            "2.2: a line that begins with space is no first header",
            "GET /a HTTP/1.1\r\n X-A: 1\r\nHost: a.example\r\n\r\n",
            RefusedOr(&[|seen| !seen.contains("x-a")]),
        ),
        case(
            "2.3: another protocol's version is refused",
            "GET /a HTTP/2.0\r\nHost: a.example\r\n\r\n",
            Status(&[400, 505, 0]),
        ),
        case(
            "2.3: the version's name has capitals",
            "GET /a http/1.1\r\nHost: a.example\r\n\r\n",
            Refused,
        ),
        case("3: a request without a version is refused", "GET /a\r\n\r\n", Refused),
        case(
            "3: a space within the target is refused",
            "GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Refused,
        ),
        case("3: a target that is too long is told as 414", long, Status(&[414])),
        case(
            "3.1: a method has its own case",
            "get /a HTTP/1.1\r\nHost: a.example\r\n\r\n",
            RefusedOr(&[|seen| seen.starts_with("get /a http/1.1")]),
        ),
        case("3.2: no Host is a 400", "GET /a HTTP/1.1\r\n\r\n", Status(&[400])),
        case("3.2: two Hosts are a 400", get("Host: b.example\r\n"), Status(&[400])),
        case(
            "3.2: a Host that is none is a 400",
            "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
            Status(&[400]),
        ),
        case("3.2: HTTP/1.0 needs no Host", "GET /a HTTP/1.0\r\n\r\n", Passes(&[])),
        case(
            "3.2.2: the absolute form is taken",
            "GET http://a.example/a HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes(&[|seen| !seen.contains("\r\nhost: b.example")]),
        ),
        case(
            "3.2.2: the absolute form wins over Host",
            "GET http://a.example/a HTTP/1.1\r\nHost: b.example\r\n\r\n",
            RefusedOr(&[|seen| !seen.contains("host: b.example")]),
        ),
        case(
            "3.2.3: no tunnel is made",
            "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
            Refused,
        ),
        case(
            "3.2.4: the star is taken for OPTIONS",
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Status(&[200, 204, 400, 403, 404, 405, 501]),
        ),
        case("5.1: space before the colon is a 400", get("X-A : 1\r\n"), Status(&[400])),
        case(
            "5: a header without a colon is refused",
            get("X-A\r\n"),
            RefusedOr(&[|seen| !seen.contains("x-a")]),
        ),
        case(
            "5.2: a fold is refused or made a space",
            get("X-A: 1\r\n 2\r\n"),
            RefusedOr(&[|seen| !seen.contains("\r\n 2")]),
        ),
        case(
            "9110 5.5: NUL is refused or made a space",
            get("X-A: 1\x002\r\n"),
            RefusedOr(&[|seen| !seen.contains('\0')]),
        ),
        case(
            "9110 5.1: a name has only letters of a token",
            get("X[A]: 1\r\n"),
            RefusedOr(&[|seen| !seen.contains("x[a]")]),
        ),
        case(
            "9110 5.4: headers that are too large are told as 4xx",
            get(&format!("X-A: {}\r\n", "a".repeat(1 << 20))),
            Status(&[400, 413, 431, 0]),
        ),
        case("9110 5.5: an empty value is one", get("X-A:\r\n"), Passes(&[])),
    ]
}

/// RFC 9112, 6, 7 and 9: bodies and connections.
fn framing() -> Vec<Case> {
    use Want::*;
    let length =
        |value: &str| post(&format!("Content-Length: {value}\r\n"), &format!("hello{AFTER}"));
    let encoding = |value: &str| {
        post(&format!("Transfer-Encoding: {value}\r\n"), &format!("0\r\n\r\n{AFTER}"))
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let closes = |case: Case| Case { closes: true, ..case };
    let hello: &[Check] =
        &[|seen| seen.ends_with("hello") || seen.ends_with("5\r\nhello\r\n0\r\n\r\n")];
    let mut all = vec![
        case("6.2: a length frames", post("Content-Length: 5\r\n", "hello"), Passes(hello)),
        case("7.1: chunks frame", chunked("5\r\nhello\r\n0\r\n\r\n"), Passes(hello)),
        case(
            "7: chunked in capitals is chunked",
            post("Transfer-Encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            Passes(hello),
        ),
        case(
            "7.1: sizes may have capitals and zeros",
            chunked("00A\r\n0123456789\r\n0\r\n\r\n"),
            Passes(&[|seen| seen.contains("0123456789")]),
        ),
        case(
            "7.1.1: an extension is ignored",
            chunked("5;a=\"b\"\r\nhello\r\n0\r\n\r\n"),
            Passes(&[|seen| seen.contains("hello")]),
        ),
        case(
            "7.1.2: a trailer is no header",
            chunked("5\r\nhello\r\n0\r\nX-Secret: 1\r\n\r\n"),
            Passes(&[|seen| !head(seen).contains("x-secret: 1")]),
        ),
        closes(case(
            "6.1: encodings in HTTP/1.0 end the connection",
            chunked("0\r\n\r\n").replace("1.1", "1.0"),
            RefusedOr(&[]),
        )),
        closes(case(
            "6.1: a length beside chunks is not passed on, and ends the connection",
            post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            RefusedOr(&[|seen| !seen.contains("content-length: 4")]),
        )),
        closes(case(
            "6.1: the same in the other order",
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
            RefusedOr(&[|seen| !seen.contains("content-length: 4")]),
        )),
        closes(case(
            "6.3: chunked that is not last is a 400",
            encoding("chunked, identity"),
            Status(&[400, 501]),
        )),
        closes(case(
            "6.3: an encoding that is not chunked is a 400",
            encoding("xchunked"),
            Status(&[400, 501]),
        )),
        closes(case(
            "6.3: different lengths are a 400",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
            Status(&[400]),
        )),
        case(
            "6.3: equal lengths are refused or made one",
            post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            RefusedOr(&[|seen| seen.matches("content-length").count() == 1]),
        ),
        case(
            "6.3: a list of equal lengths is refused or made one",
            post("Content-Length: 5, 5\r\n", "hello"),
            RefusedOr(&[|seen| !seen.contains("5, 5")]),
        ),
        closes(case(
            "7.1: data longer than its chunk is an error",
            chunked("5\r\nhelloo\r\n0\r\n\r\n"),
            Status(&[400, 502, 0]),
        )),
        case(
            "9.3.2: requests in a row are answered in order",
            format!("{}{}", get(""), answer("404")),
            Statuses(vec![200, 404]),
        ),
        closes(case(
            "9.6: who closes is answered and closed",
            get("Connection: close\r\n"),
            Passes(&[]),
        )),
        closes(case(
            "9.3: HTTP/1.0 is closed after its answer",
            "GET /a HTTP/1.0\r\nHost: a.example\r\n\r\n",
            Passes(&[]),
        )),
        case("9.3: HTTP/1.1 is kept open", get(""), Passes(&[])),
    ];
    for (demand, value) in [
        ("6.3: a length with a plus is a 400", "+5"),
        ("6.3: a length with a minus is a 400", "-5"),
        ("6.3: a length in hexadecimal is a 400", "0x5"),
        ("6.3: a length of two words is a 400", "5 5"),
        ("6.3: different lengths in a list are a 400", "5, 6"),
        ("6.3: a length that is no number is a 400", "five"),
        ("6.3: a length beyond all numbers is a 4xx", "99999999999999999999999"),
    ] {
        let wanted: &[u16] = if value.starts_with('9') { &[400, 413, 431] } else { &[400] };
        all.push(closes(case(demand, length(value), Status(wanted))));
    }
    for (demand, body) in [
        ("7.1: a size with a sign is an error", "+5\r\nhello\r\n0\r\n\r\n"),
        ("7.1: a size with 0x is an error", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("7.1: a size beyond 64 bits is an error", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("7.1: no size is an error", "\r\nhello\r\n0\r\n\r\n"),
    ] {
        all.push(closes(case(demand, chunked(body), Status(&[400, 413, 502, 0]))));
    }
    all
}

/// RFC 9110, 7.6 and 10: what a proxy passes on.
fn forwarding() -> Vec<Case> {
    use Want::*;
    vec![
        case(
            "9110 7.6.1: what Connection names does not pass",
            get("Connection: X-Hop\r\nX-Hop: 1\r\n"),
            Passes(&[|seen| !seen.contains("x-hop")]),
        ),
        case(
            "9110 7.6.1: Connection itself is the proxy's own",
            get("Connection: X-Hop, keep-alive\r\n"),
            Passes(&[|seen| !seen.contains("x-hop")]),
        ),
        case(
            "9110 7.6.1: headers of one hop do not pass",
            get("Connection: TE, Keep-Alive\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\n"),
            Passes(&[|seen| !seen.contains("\r\nte:") && !seen.contains("timeout=5")]),
        ),
        case(
            "9110 7.8: no other protocol is agreed on by accident",
            get("Connection: Upgrade\r\nUpgrade: foo/2\r\n"),
            Status(&[200, 400, 501]),
        ),
        case(
            "9110 5.1: headers that are not known pass",
            get("X-Unknown: some value\r\n"),
            Passes(&[|seen| seen.contains("x-unknown: some value")]),
        ),
        case(
            "9110 5.3: the order of equal headers stays",
            get("X-A: 1\r\nX-A: 2\r\n"),
            Passes(&[|seen| {
                seen.find(": 1").zip(seen.find(": 2")).is_some_and(|(one, two)| one < two)
                    || seen.contains("1, 2")
            }]),
        ),
        case(
            "9110 7.7: the path and the query are not changed",
            "GET /a/%2e%2E/b%2Fc?d=%41&&e HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Passes(&[|seen| seen.starts_with("get /a/%2e%2e/b%2fc?d=%41&&e http/1.1\r\n")]),
        ),
        case(
            "9110 10.1.1: who expects 100 gets one or the answer",
            post("Content-Length: 5\r\nExpect: 100-continue\r\n", "hello"),
            Passes(&[|seen| seen.ends_with("hello")]),
        ),
        case(
            "9110 9.1: a method that is not known passes or is a 501",
            "FOO /a HTTP/1.1\r\nHost: a.example\r\n\r\n",
            Status(&[200, 405, 501]),
        ),
        case("a gateway names itself in Via", get(""), Passes(&[|seen| seen.contains("\r\nvia:")])),
        case(
            "OPTIONS with Max-Forwards: 0 goes no further",
            "OPTIONS /a HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n\r\n",
            Answers(|text| !text.contains("options /a")),
        ),
    ]
}

/// Names and bytes of what the back end answers.
pub(super) const ANSWERS: [(&str, &str); 16] = [
    ("404", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    ("head", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    ("204", "HTTP/1.1 204 No Content\r\n\r\n"),
    ("304", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
    (
        "103",
        "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    ("101", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nbytes"),
    ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    (
        "both",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    ("two", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello"),
    ("equal", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("close", "HTTP/1.1 200 OK\r\n\r\nhello"),
    ("cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("space", "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 0\r\n\r\n"),
    ("fold", "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n"),
    ("hop", "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n"),
    ("none", "nonsense\r\n\r\n"),
];

/// What a proxy makes of answers.
fn answers() -> Vec<Case> {
    use Want::*;
    vec![
        Case {
            is_head: true,
            ..case(
                "9110 9.3.2: HEAD has no body",
                answer("head").replace("GET", "HEAD"),
                Answers(|text| text.ends_with("\r\n\r\n")),
            )
        },
        case(
            "9110 15.3.5: a 204 has no body and no length",
            answer("204"),
            Answers(|text| {
                text.ends_with("\r\n\r\n")
                    && !text.contains("content-length")
                    && !text.contains("transfer-encoding")
            }),
        ),
        case(
            "9110 15.4.5: a 304 has no body",
            answer("304"),
            Answers(|text| text.contains(" 304 ") && text.ends_with("\r\n\r\n")),
        ),
        case(
            "9110 6.6.1: an answer without Date gets one",
            get(""),
            Answers(|text| text.contains("\r\ndate: ")),
        ),
        case("a 103 is passed on", answer("103"), Statuses(vec![103, 200])),
        case(
            "9110 15.2: an interim answer is not for HTTP/1.0",
            answer("103").replace("1.1", "1.0"),
            Statuses(vec![200]),
        ),
        case(
            "9110 7.8: nobody is switched who did not ask",
            answer("101"),
            Answers(|text| !text.contains(" 101 ")),
        ),
        case(
            "9112 6.1: HTTP/1.0 gets no chunks",
            answer("chunks").replace("1.1", "1.0"),
            Answers(|text| !text.contains("transfer-encoding") && text.ends_with("hello")),
        ),
        case(
            "9112 6.3: chunks win over a length, which does not pass",
            answer("both"),
            Answers(|text| !text.contains("content-length: 2") && text.contains("hello")),
        ),
        case("9112 6.3: different lengths do not pass", answer("two"), Status(&[502, 503])),
        case(
            "9112 6.3: equal lengths are made one",
            answer("equal"),
            Answers(|text| {
                text.matches("content-length").count() == 1
                    || text.contains(" 502 ")
                    || text.contains(" 503 ")
            }),
        ),
        case(
            "9112 6.3: an answer that ends with its connection is whole",
            answer("close"),
            Answers(|text| text.contains("hello")),
        ),
        case(
            "9112 8: an answer that is cut off does not look whole",
            answer("cut"),
            Answers(|text| !text.ends_with("0\r\n\r\n")),
        ),
        case(
            "9112 5.1: space before a colon does not pass",
            answer("space"),
            Answers(|text| !text.contains("x-a :")),
        ),
        case(
            "9112 5.2: a fold does not pass",
            answer("fold"),
            Answers(|text| !text.contains("\r\n 2")),
        ),
        case(
            "9110 7.6.1: what Connection names does not come back",
            answer("hop"),
            Answers(|text| !text.contains("x-hop")),
        ),
        case("an answer that is none is told as 502", answer("none"), Status(&[502])),
    ]
}
