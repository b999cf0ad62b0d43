//! HTTP/2 connections, served by h2 itself: its streams are futures of the connection's own task, so that a request costs
//! no task, no channel and no waking of another, and what their answers come to in one turn is written at its end.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use hyper::{
    Method, Request, Response,
    body::{Body as _, Bytes},
    header::{CONTENT_LENGTH, DATE},
};
use mesh::bucket::{Bucket, Rate};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    date,
    duplex::Duplex,
    form,
    h2_body::{Received, Sending},
    heartbeat::{Beat, Heartbeat},
    respond::Answer,
    serve::{Limits, sends_elsewhere},
    upgrade,
};
use crate::{
    body::{Body, Source},
    drain::{Draining, Stage},
    net::batch::Batch,
};

/// What a client has to begin with, for as long.
const BEGIN: Duration = Duration::from_secs(10);
/// The head of a request, decoded, at most: as over HTTP/1.
const HEAD_MAX: u32 = 64 * 1024;
/// What one stream may have buffered towards a slow reader.
const SEND_BUFFER: usize = 64 * 1024;
/// How many streams may be reset before their answer began. A caller that opens streams only to reset them makes us work for
/// nothing (CVE-2023-44487); one that resets more than honest cancellation would is cut off.
const RESETS: Rate = Rate { burst: 1000, per_second: 500 };
/// A connection without a stream for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// How long a connection is served whose caller did not know yet that the pod is being deleted. Telling it at once would
/// cost it a handshake for each few requests until it knows; endpoints are updated within about this time.
const LATE: Duration = Duration::from_secs(1);

/// How a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It was answered, or its answer broke off.
    Answered,
    /// Its answer sends its caller elsewhere, with all later requests of its connection.
    Elsewhere,
    /// Its caller had reset it before it was answered.
    Reset,
}

/// Serves a connection's requests until it ends, drains, or `until` is over.
pub(super) async fn serve<I, F, Fut>(
    io: I,
    limits: Limits,
    until: Option<Duration>,
    draining: Draining,
    handle: F,
) -> Result<(), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Box<Request<Body>>) -> Fut,
    Fut: Future<Output = Answer>,
{
    let batch = Batch::new(io);
    let mut serving = pin!(async {
        let Ok(connection) = timeout(BEGIN, begin(&batch, limits)).await else { return Ok(()) };
        run(connection?, &batch, limits, leave(until, draining, limits.leaves), handle).await
    });
    poll_fn(|cx| batch.poll(serving.as_mut(), cx)).await
}

async fn begin<I>(batch: &Batch<I>, limits: Limits) -> Result<Connection<Batch<I>, Bytes>, h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = Builder::new();
    builder
        .max_header_list_size(HEAD_MAX)
        .max_concurrent_streams(limits.streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window())
        .max_send_buffer_size(SEND_BUFFER);
    if limits.switches {
        builder.enable_connect_protocol();
    }
    if let Some(resets) = limits.resets {
        builder.max_pending_accept_reset_streams(resets);
    }
    builder.handshake(batch.clone()).await
}

async fn run<I, F, Fut>(
    mut connection: Connection<Batch<I>, Bytes>,
    batch: &Batch<I>,
    limits: Limits,
    leave: impl Future<Output = ()>,
    handle: F,
) -> Result<(), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Box<Request<Body>>) -> Fut,
    Fut: Future<Output = Answer>,
{
    let mut heartbeat = Heartbeat::new(connection.ping_pong());
    let mut streams = FuturesUnordered::new();
    let mut leave = pin!(leave);
    let (mut left, mut used) = (false, Instant::now());
    let mut resets = Bucket::new(RESETS, used.into_std());
    let mut begun = false;
    poll_fn(|cx| {
        if !left && leave.as_mut().poll(cx).is_ready() {
            left = true;
            connection.graceful_shutdown();
        }
        loop {
            // The streams first, so that the connection writes what they have to say.
            while let Poll::Ready(Some(ended)) = streams.poll_next_unpin(cx) {
                match ended {
                    Ended::Answered => (),
                    Ended::Elsewhere => connection.graceful_shutdown(),
                    Ended::Reset => {
                        if limits.resets.is_some() && !resets.take(Instant::now().into_std()) {
                            warn!("cut a caller off that resets its streams");
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
            }
            let before = streams.len();
            while let Poll::Ready(next) = connection.poll_accept(cx) {
                let Some((request, respond)) = next.transpose()? else { return Poll::Ready(Ok(())) };
                streams.extend(accept(request, respond, &handle));
            }
            if streams.len() == before {
                break;
            }
            begun = true;
        }
        match heartbeat.poll(cx, || batch.heard()) {
            Poll::Pending => (),
            Poll::Ready(Beat::Dead) => return Poll::Ready(Ok(())),
            Poll::Ready(Beat::Lives) => {
                if std::mem::take(&mut begun) || !streams.is_empty() || limits.resets.is_none() {
                    used = Instant::now();
                } else if used.elapsed() >= IDLE {
                    connection.graceful_shutdown();
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Returns when an HTTP/2 connection's caller must be told to go elsewhere. The GOAWAY that tells it costs no request:
/// what was sent before it arrived is served (RFC 9113 section 6.8).
async fn leave(until: Option<Duration>, mut draining: Draining, from: Stage) {
    let over = async {
        match until {
            Some(until) => sleep(until).await,
            None => std::future::pending().await,
        }
    };
    let drained = async {
        let late = draining.stage() >= from;
        draining.reaches(from).await;
        if late {
            // Its end does not matter, only that it comes no later than LATE.
            let _ = timeout(LATE, draining.reaches(Stage::Ending)).await;
        }
    };
    tokio::select! {
        () = over => (),
        () = drained => (),
    }
}

/// A stream, unless it is one that nobody may open.
fn accept<F, Fut>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    handle: &F,
) -> Option<Stream<Fut>>
where
    F: Fn(Box<Request<Body>>) -> Fut,
    Fut: Future<Output = Answer>,
{
    let (mut head, stream) = request.into_parts();
    let withheld = head.method == Method::HEAD;
    let (source, switch) = if head.method == Method::CONNECT {
        // Its bytes are the tunnel's, so that it has none of its own (RFC 9110 section 9.3.6).
        if head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return None;
        }
        let (opened, promise) = upgrade::promise();
        head.extensions.insert(promise);
        (Source::Nothing, Some(Switch { opened, from_client: stream }))
    } else {
        (Source::from(Received::after(&head.headers, stream)), None)
    };
    let request = Box::new(Request::from_parts(head, Body::passing(source)));
    // Boxed, so that its memory goes when the body of its answer begins.
    Some(Stream::Answering(Answering { answer: Box::pin(handle(request)), respond, withheld, switch }))
}

/// A request, until its answer has been sent.
enum Stream<F> {
    /// It is being answered.
    Answering(Answering<F>),
    /// Its answer's body is being sent.
    Sending(Sending, Ended),
}

struct Answering<F> {
    answer: Pin<Box<F>>,
    respond: SendResponse<Bytes>,
    /// The answer is to have no body, whatever it says of it.
    withheld: bool,
    switch: Option<Switch>,
}

/// Where a CONNECT's bytes go to and come from, if its answer opens a tunnel.
struct Switch {
    opened: oneshot::Sender<Duplex>,
    from_client: RecvStream,
}

impl<F: Future<Output = Answer>> Future for Stream<F> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let stream = self.get_mut();
        if let Self::Answering(answering) = stream {
            let answer = match answering.answer.as_mut().poll(cx) {
                Poll::Ready(answer) => answer,
                // Pending until nobody waits for it any more.
                Poll::Pending => return answering.respond.poll_reset(cx).map(|_| Ended::Reset),
            };
            match answering.send(answer) {
                (Some(sending), ended) => *stream = Self::Sending(sending, ended),
                (None, ended) => return Poll::Ready(ended),
            }
        }
        let Self::Sending(sending, ended) = stream else { return Poll::Ready(Ended::Answered) };
        sending.poll(cx).map(|sent| {
            if let Err(error) = sent {
                debug!(%error, "an answer was not sent whole");
            }
            *ended
        })
    }
}

impl<F> Answering<F> {
    /// Sends the head of an answer. Its body, if it has one, is sent next.
    fn send(&mut self, answer: Answer) -> (Option<Sending>, Ended) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(reset) => {
                self.respond.send_reset(reset.reason().unwrap_or(Reason::INTERNAL_ERROR));
                return (None, Ended::Answered);
            }
        };
        let ended = if sends_elsewhere(&answer) { Ended::Elsewhere } else { Ended::Answered };
        let (mut head, mut body) = answer.into_parts();
        if self.withheld {
            body = body.withheld();
        }
        form::for_stream(&mut head.headers);
        head.headers.entry(DATE).or_insert_with(date::now);
        let switch = self.switch.take().filter(|_| head.status.is_success());
        if switch.is_some() {
            head.headers.remove(CONTENT_LENGTH);
        } else if let Some(length) = body.own_length() {
            head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        let whole = switch.is_none() && body.is_end_stream();
        let stream = match self.respond.send_response(Response::from_parts(head, ()), whole) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "an answer was not sent");
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                return (None, ended);
            }
        };
        if let Some(switch) = switch {
            // Whoever waited for it may have left; then the stream is reset.
            let _ = switch.opened.send(Duplex::new(stream, switch.from_client));
            return (None, ended);
        }
        ((!whole).then(|| Sending::new(stream, body)), ended)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use h2::client::{Connection as Client, SendRequest};
    use tokio::{
        io::{DuplexStream, duplex},
        task::JoinHandle,
    };

    use super::*;
    use crate::drain;

    /// A client's end of a connection that is served, and its server.
    async fn served(
        limits: Limits,
    ) -> (SendRequest<Bytes>, Client<DuplexStream>, JoinHandle<Result<(), h2::Error>>) {
        let (near, far) = duplex(64 * 1024);
        let (drain, draining) = drain::channel();
        let serving = tokio::spawn(async move {
            let _drain = drain;
            serve(far, limits, None, draining, |_| pending::<Answer>()).await
        });
        let (sender, connection) = h2::client::handshake(near).await.expect("HTTP/2");
        (sender, connection, serving)
    }

    /// Without time that passes: a timer is no finer than a millisecond.
    async fn both_have_worked() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_stream_is_closed_after_long_and_not_before() {
        let (_sender, connection, serving) = served(Limits::PEER).await;
        let began = Instant::now();
        // It may meet the closed connection with a frame of its own.
        let _ = connection.await;
        let _ = serving.await.expect("no panic");
        assert!((IDLE..IDLE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_runs_keeps_its_connection() {
        let (mut sender, connection, serving) = served(Limits::PEER).await;
        let connection = tokio::spawn(connection);
        let request = Request::get("http://web/").body(()).expect("a request");
        let (response, _) = sender.send_request(request, true).expect("sent");
        assert!(timeout(IDLE * 4, response).await.is_err(), "nobody answers");
        assert!(!serving.is_finished() && !connection.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_gives_no_sign_of_life_is_given_up() {
        // Its end is there, and nobody reads it.
        let (_sender, mut connection, serving) = served(Limits::PEER).await;
        let greeted = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx).is_pending())).await;
        assert!(greeted);
        let ended = timeout(Duration::from_secs(30), serving).await.expect("it does not wait for ever");
        ended.expect("no panic").expect("no error");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_only_resets_its_streams_is_cut_off() {
        let (mut sender, connection, serving) = served(Limits::PEER).await;
        let connection = tokio::spawn(connection);
        let mut reset = 0;
        while !serving.is_finished() {
            let request = Request::get("http://web/").body(()).expect("a request");
            let Ok(stream) = sender.send_request(request, true) else { break };
            both_have_worked().await;
            drop(stream);
            both_have_worked().await;
            reset += 1;
            assert!(reset < 2 * RESETS.burst, "it goes on");
        }
        assert!(reset >= RESETS.burst, "an honest caller may reset {reset}");
        serving.await.expect("no panic").expect("cut off");
        let _ = connection.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_callers_own_application_may_reset_as_much_as_it_likes() {
        let (mut sender, connection, serving) = served(Limits::APPLICATION).await;
        tokio::spawn(connection);
        for _ in 0..2 * RESETS.burst {
            let request = Request::get("http://web/").body(()).expect("a request");
            let stream = sender.send_request(request, true).expect("sent");
            both_have_worked().await;
            drop(stream);
            both_have_worked().await;
        }
        assert!(!serving.is_finished());
    }
}
