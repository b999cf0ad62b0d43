//! What one caller can take of the control plane: its own share, and nobody else's.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::bed::{Bed, Sender, read, send, uri};
use crate::{csr, service, soon};

#[tokio::test]
async fn signing_is_limited_by_pod() {
    let bed = Bed::start(&[]).await;
    let (mut sender, token, csr) = (bed.connect::<Full<Bytes>>(0).await, bed.token(), csr(&[]));
    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(send(&mut sender, "POST", "/v1/sign", &token, &csr).await.status().as_u16());
    }
    assert_eq!(codes[0], 200);
    assert!(codes.contains(&429), "{codes:?}");
}

#[tokio::test]
async fn a_caller_that_sends_slowly_holds_up_nobody_else() {
    let bed = Bed::start(&[]).await;
    let endless = || StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>().boxed());
    let mut slow = bed.connect(1).await;
    for _ in 0..100 {
        let request = http::Request::post(uri("/inject")).body(endless()).unwrap();
        tokio::spawn(slow.send_request(request));
    }
    slow.ready().await.unwrap();
    let mut other = bed.connect_from::<Full<Bytes>>([127, 0, 0, 2], 1).await;
    let begun = Instant::now();
    let answer = soon(send(&mut other, "POST", "/inject", "", "{}")).await;
    assert_eq!(answer.status(), 400);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let request = http::Request::post(uri("/inject")).body(endless()).unwrap();
    let code = soon(slow.send_request(request)).await.unwrap().status().as_u16();
    assert!([408, 429].contains(&code), "{code}");
}

#[tokio::test]
async fn connections_that_prove_nothing_are_few_for_each_address() {
    let bed = Bed::start(&[]).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(bed.dial([127, 0, 0, 1], 0).await);
    }
    let mut late = bed.dial([127, 0, 0, 1], 0).await;
    let ended = soon(late.read(&mut [0; 1])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut other = bed.connect_from::<Full<Bytes>>([127, 0, 0, 2], 0).await;
    assert_eq!(send(&mut other, "GET", "/v1/bundle", &bed.token(), "").await.status(), 200);
}

#[tokio::test]
async fn a_pod_has_few_connections() {
    let bed = Bed::start(&[]).await;
    let mut held = Vec::new();
    for last in 1..=9 {
        let mut sender = bed.connect_from::<Full<Bytes>>([127, 0, 0, last], 0).await;
        let status = send(&mut sender, "GET", "/v1/bundle", &bed.token(), "").await.status();
        assert_eq!(status, if last <= 8 { 200 } else { 429 });
        held.push(sender);
    }
}

/// Waits until the server has closed a connection.
async fn closed(mut sender: Sender<Full<Bytes>>) {
    let closed = async {
        while sender.ready().await.is_ok() && !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), closed).await.expect("it stays open");
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed() {
    let bed = Bed::start(&[]).await;
    let mut control = bed.connect::<Full<Bytes>>(0).await;
    let mut webhook = bed.connect::<Full<Bytes>>(1).await;
    control.ready().await.unwrap();
    webhook.ready().await.unwrap();
    tokio::join!(closed(control), closed(webhook));
}

#[tokio::test]
async fn a_connection_that_proves_no_pod_is_closed_whatever_is_asked_on_it() {
    let bed = Bed::start(&[]).await;
    let mut sender = bed.connect::<Full<Bytes>>(0).await;
    let token = bed.token_with(|claims| claims["kubernetes.io"]["pod"]["uid"] = json!("old"));
    assert_eq!(send(&mut sender, "GET", "/v1/bundle", &token, "").await.status(), 403);
    closed(sender).await;
}

#[tokio::test]
async fn a_refused_token_ends_its_connection_and_the_answer_arrives() {
    let bed = Bed::start(&[]).await;
    let mut sender = bed.connect::<Full<Bytes>>(0).await;
    let (code, status) = read(send(&mut sender, "GET", "/v1/bundle", "nonsense", "").await).await;
    assert_eq!((code, &status["kind"]), (401, &json!("Status")));
    soon(closed(sender)).await;
}

#[tokio::test]
async fn who_asks_the_webhook_for_something_else_is_answered_and_gone() {
    let bed = Bed::start(&[]).await;
    for (method, target, expected) in [("GET", "/inject", 405), ("POST", "/metrics", 404)] {
        let mut sender = bed.connect::<Full<Bytes>>(1).await;
        let (code, status) = read(send(&mut sender, method, target, "", "").await).await;
        assert_eq!((code, &status["kind"]), (expected, &json!("Status")));
        soon(closed(sender)).await;
    }
    let mut server = bed.connect::<Full<Bytes>>(1).await;
    for _ in 0..2 {
        assert_eq!(send(&mut server, "POST", "/inject", "", "{}").await.status(), 400);
    }
}

#[tokio::test]
async fn who_fills_a_port_makes_room_for_newcomers() {
    let bed = Bed::start(&[]).await;
    for (port, each) in [(1, 32), (2, 8), (3, 8)] {
        let mut idle = Vec::new();
        for _ in 0..each {
            idle.push(bed.dial([127, 0, 0, 1], port).await);
        }
        // The newcomer takes the place of the first.
        let _late = bed.dial([127, 0, 0, 1], port).await;
        let ended = soon(idle[0].read(&mut [0; 1])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{port}: {ended:?}");
        let second = timeout(Duration::from_millis(100), idle[1].read(&mut [0; 1])).await;
        assert!(second.is_err(), "{port}: {second:?}");
    }
    assert!(bed.plain(3, "/live").await.is_some());
    assert_eq!(bed.admit("{}").await.0, 400);
}

#[tokio::test]
async fn many_small_lists_at_a_time_wait_in_turn() {
    let bed = Bed::start(&[]).await;
    let (sender, token) = (bed.connect::<Full<Bytes>>(0).await, bed.token());
    let codes = (0..100).map(|last| {
        let (mut sender, token) = (sender.clone(), token.clone());
        let target = format!("/api/v1/pods?fieldSelector=status.podIPs=10.1.0.{last}");
        async move {
            let response = send(&mut sender, "GET", &target, &token, "").await;
            (response.status().as_u16(), response.into_body().collect().await.is_ok())
        }
    });
    let codes = soon(futures::future::join_all(codes)).await;
    assert!(codes.iter().all(|code| *code == (200, true)), "{codes:?}");
}

#[tokio::test]
async fn lists_that_nobody_reads_are_few_for_each_pod() {
    let bed = Bed::start(&[]).await;
    let services: Vec<String> = (0..40)
        .map(|number| {
            service("10.96.0.5", &"x".repeat(16 * 1024)).replace("name: web", &format!("name: web-{number}"))
        })
        .collect();
    bed.put_and_wait("services.yaml", &services.join("---\n")).await;
    let (mut sender, token) = (bed.connect::<Full<Bytes>>(0).await, bed.token());
    let target = "/api/v1/namespaces/shop/services";
    let mut unread = Vec::new();
    for _ in 0..8 {
        let response = send(&mut sender, "GET", target, &token, "").await;
        assert_eq!(response.status(), 200);
        unread.push(response);
    }
    assert_eq!(send(&mut sender, "GET", target, &token, "").await.status(), 429);
    let bodies: Vec<Bytes> = futures::future::join_all(
        unread
            .into_iter()
            .map(|response| async { soon(response.into_body().collect()).await.unwrap().to_bytes() }),
    )
    .await;
    assert!(bodies.iter().all(|body| *body == bodies[0] && body.len() > 40 * 16 * 1024));
    assert_eq!(send(&mut sender, "GET", target, &token, "").await.status(), 200);
}
