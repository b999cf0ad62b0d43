use super::*;
use proptest::prelude::*;

#[track_caller]
fn check(bytes: &[u8], expected: Detected) {
    assert_eq!(detect(bytes), Detection::Known(expected), "{:?}", String::from_utf8_lossy(bytes));
}

#[track_caller]
fn undecided(bytes: &[u8]) {
    assert_eq!(detect(bytes), Detection::NeedMore, "{:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn a_method_and_a_target_are_http() {
    for line in [
        "GET /",
        "PATCH /a",
        "OPTIONS * HTTP/1.1",
        "GET http://web/",
        "get /x HTTP/1.1\r\n",
        "M-SEARCH /x HTTP/1.0",
        "CONNECT web:443",
        "CONNECT [fd00::1]:443",
        "POST HTTPS://",
        "PROPFIND /",
        "GETS /x HTTP/1.1\r\n",
        "PRI /x HTTP/1.1",
    ] {
        check(line.as_bytes(), Detected::Http1);
    }
}

#[test]
fn other_protocols_with_words_are_opaque() {
    for line in [
        "EHLO web\r\n",
        "USER x\r\n",
        "CWD /pub\r\n",
        "GET key\r\n",
        "get /key\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "OPTIONS * RTSP/1.0",
        "INVITE sip:a@b SIP/2.0",
        "DESCRIBE rtsp://x",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "PING\r\n",
        "@RSYNCD: 31.0\n",
        "set a 0 0 1\r\n",
        " GET /",
        "GET  /",
        "GET\t/",
    ] {
        check(line.as_bytes(), Detected::Opaque);
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    for line in ["\r\nGET /", "\n\nGET /", "\r\n\r\n\r\n\r\nPOST /a", "\r\nget /x HTTP/1.1\r\n"] {
        check(line.as_bytes(), Detected::Http1);
    }
    check(&[b"\r\n".repeat(70), b"GET /".to_vec()].concat(), Detected::Http1);
    for line in ["\r", "\r\n", "\r\n\r\n\r\n\r\n", "\r\nGE", "\r\nPRI * HTTP/"] {
        undecided(line.as_bytes());
    }
    for line in ["\r\nPING\r\n", "\r\nPRI * HTTP/2.0", "\r\n\x16\x03\x01", "\n GET /"] {
        check(line.as_bytes(), Detected::Opaque);
    }
}

#[test]
fn binary_protocols_are_opaque() {
    // PostgreSQL's SSLRequest and startup, MySQL's login, MongoDB's OP_MSG, Kafka's ApiVersions.
    check(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], Detected::Opaque);
    check(&[0, 0, 0, 41, 0, 3, 0, 0], Detected::Opaque);
    check(&[0x20, 0, 0, 1, 0x85], Detected::Opaque);
    check(&[0xdd, 0, 0, 0, 1], Detected::Opaque);
    check(&[0, 0, 0, 24, 0, 18, 0, 3], Detected::Opaque);
    check(&[0x16, 1], Detected::Opaque);
}

#[test]
fn the_preface_is_http2() {
    check(PREFACE, Detected::Http2);
    check(b"PRI * HTTP/1.1\r\n", Detected::Http1);
    for len in 0..PREFACE.len() {
        undecided(&PREFACE[..len]);
    }
}

#[test]
fn what_can_be_several_things_needs_more() {
    for line in
        ["", "G", "GET", "GET ", "GET h", "GET http:/", "OPTIONS *", "OPTIONS * HT", "CWD /pub", "foo"]
    {
        undecided(line.as_bytes());
    }
    undecided(&[0x16, 3, 1, 0, 5]);
}

#[test]
fn a_client_hello_is_tls() {
    check(&[0x16, 3, 1, 2, 0, 1], Detected::Tls);
    check(&[0x16, 3, 1, 2, 0, 2], Detected::Opaque);
    check(&[0x16, 3, 9], Detected::Opaque);
}

#[test]
fn a_request_line_is_looked_at_to_its_end_however_long_its_target() {
    let method = "M".repeat(METHOD_ENOUGH);
    for line in [format!("FOO /{} HTTP/1.1", "a".repeat(300)), format!("{method} / HTTP/1.1")] {
        check(line.as_bytes(), Detected::Http1);
    }
}

#[test]
fn a_word_that_is_longer_than_any_method_is_told_at_once() {
    check(&[b'x'; METHOD_ENOUGH + 1], Detected::Opaque);
    check(format!("{} / HTTP/1.1", "M".repeat(METHOD_ENOUGH + 1)).as_bytes(), Detected::Opaque);
}

#[test]
fn there_is_an_end_to_looking() {
    for first in ["a", "M-SEARCH /", "OPTIONS *", "GET http", "foo * ", "PRI *", "\r\n\r\n\r\n\r\nOPTIONS *"]
    {
        let bytes = [first.as_bytes(), &[b'a'; ENOUGH]].concat();
        assert_ne!(detect(&bytes), Detection::NeedMore, "{first}");
    }
}

fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let word = "[\r\n]{0,10}(GET|PRI|OPTIONS|CONNECT|FOO|get)? ?(/|\\*|http://|h|web)?[ -~]{0,20}( HTTP/[12].)?(\r\n)?.{0,40}";
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        word.prop_map(String::into_bytes),
        (0..PREFACE.len(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(len, rest)| [
            &PREFACE[..len],
            &rest
        ]
        .concat()),
        prop::collection::vec(prop_oneof![Just(0x16u8), Just(3), Just(1), Just(0)], 0..9),
    ]
}

proptest! {
    #[test]
    fn detection_never_changes_its_mind(bytes in beginnings()) {
        let mut known = None;
        for len in 0..=bytes.len() {
            if let Detection::Known(detected) = detect(&bytes[..len]) {
                prop_assert_eq!(*known.get_or_insert(detected), detected);
            } else {
                prop_assert!(known.is_none() && len < ENOUGH);
            }
        }
    }

    #[test]
    fn a_client_hello_never_changes_its_mind(names in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 0..4), cut in 1usize..60, extra: u8) {
        let hello = records(&message(&names, Some("Web.Shop")), cut);
        for len in 0..hello.len() {
            prop_assert_eq!(client_hello(&hello[..len]), ClientHello::NeedMore);
        }
        let expected = ClientHello::Hello { alpn: names, sni: Some("web.shop".to_owned()) };
        prop_assert_eq!(&client_hello(&hello), &expected);
        prop_assert_eq!(client_hello(&[hello, vec![extra]].concat()), expected);
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..150, byte: u8) {
        client_hello(&bytes);
        let mut hello = records(&message(&[b"h2".to_vec()], Some("web")), 1000);
        if let Some(place) = hello.get_mut(at) {
            *place = byte;
        }
        client_hello(&hello);
    }
}

fn long(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
}

fn message(alpn: &[Vec<u8>], sni: Option<&str>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(sni) = sni {
        let list = [&[0][..], &long(sni.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &long(&long(&list))].concat());
    }
    if !alpn.is_empty() {
        let list: Vec<u8> =
            alpn.iter().flat_map(|name| [&[u8::try_from(name.len()).unwrap()][..], name].concat()).collect();
        extensions.extend([&[0, 16][..], &long(&long(&list))].concat());
    }
    let body = [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    [&[1, 0][..], &long(&body)].concat()
}

fn records(message: &[u8], cut: usize) -> Vec<u8> {
    message.chunks(cut).flat_map(|fragment| [&[0x16, 3, 1][..], &long(fragment)].concat()).collect()
}

#[test]
fn a_hello_without_names_is_a_hello() {
    assert_eq!(
        client_hello(&records(&message(&[], None), 999)),
        ClientHello::Hello { alpn: vec![], sni: None }
    );
}

#[test]
fn what_is_no_hello_is_invalid() {
    assert_eq!(client_hello(b"GET / HTTP/1.1\r\n"), ClientHello::Invalid);
    assert_eq!(client_hello(&[0x16, 2]), ClientHello::Invalid);
    assert_eq!(client_hello(&[0x16, 3, 1, 0, 0]), ClientHello::Invalid);
    assert_eq!(client_hello(&[0x16, 3, 1, 0, 4, 2]), ClientHello::Invalid);
}

#[test]
fn a_hello_is_bounded() {
    let endless: Vec<u8> = records(&[&[1, 0, 0x3f, 0xff][..], &vec![0; 0x3fff]].concat(), 1);
    assert_eq!(client_hello(&endless), ClientHello::Invalid);
    assert_eq!(client_hello(&[0x16, 3, 1, 0, 4, 1, 1, 0, 0]), ClientHello::Invalid);
}
