//! HTTP/2 connections, served by h2 itself: its streams are futures of the connection's own task, so that a request costs
//! no task, no channel and no waking of another, and what their answers come to in one turn is written at its end.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
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
use tracing::{debug, error, warn};

use super::{
    date,
    duplex::Duplex,
    error::passed_on,
    form,
    h2_body::{BROKEN_MAX, GIVEN_UP_MAX, HEAD_MAX, Received, SEND_BUFFER, Sending},
    heartbeat::{self, Beat, Heartbeat},
    respond::Answer,
    serve::{Limits, sends_elsewhere},
    upgrade,
};
use crate::{
    body::{Body, Source},
    clock,
    drain::{Draining, Stage},
    net::batch::Batch,
};

/// A client must send HTTP/2's preface within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many streams may be reset before their answer began. A caller that opens streams only to reset them makes us work for
/// nothing (CVE-2023-44487); one that resets more than honest cancellation would is cut off.
const RESETS: Rate = Rate { burst: 1000, per_second: 500 };
/// A connection without a stream for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// How long a connection is served whose caller did not know yet that the pod is being deleted. Telling it at once would
/// cost it a handshake for each few requests until it knows; endpoints are updated within about this time.
const LATE: Duration = Duration::from_secs(1);

/// Serves a connection's requests until it ends, drains, or `until` is over.
pub(super) async fn serve<I, F, Fut>(
    batch: Batch<I>,
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
    let mut serving = pin!(async {
        let Ok(connection) = timeout(HANDSHAKE_TIMEOUT, begin(&batch, limits)).await else {
            debug!("a client did not begin with HTTP/2 in time");
            return Ok(());
        };
        let mut serving = Serving::new(connection?, limits);
        let mut leave = pin!(leave(until, draining, limits.leaves));
        poll_fn(|cx| serving.poll(cx, leave.as_mut(), &batch, &handle)).await
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
        .max_pending_accept_reset_streams(limits.resets.unwrap_or(usize::MAX))
        .max_concurrent_reset_streams(GIVEN_UP_MAX)
        .max_local_error_reset_streams((!limits.is_trusted()).then_some(BROKEN_MAX))
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window())
        .max_send_buffer_size(SEND_BUFFER);
    if limits.switches {
        builder.enable_connect_protocol();
    }
    builder.handshake(batch.clone()).await
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
        biased;
        () = over => (),
        () = drained => (),
    }
}

/// A connection that is served.
struct Serving<I, F> {
    connection: Connection<Batch<I>, Bytes>,
    streams: FuturesUnordered<Stream<F>>,
    heartbeat: Heartbeat,
    limits: Limits,
    resets: Bucket,
    /// A stream has begun since that was looked at.
    begun: bool,
    /// When a stream was there last, as far as was looked.
    used: Instant,
    leaving: Leaving,
}

/// How far a connection's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// Its caller has been told, then.
    Told(Instant),
    /// It has had the time to learn of it: no new stream is served any more, whatever it says that it knows.
    Over,
}

impl<I, F> Serving<I, F>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Answer>,
{
    fn new(mut connection: Connection<Batch<I>, Bytes>, limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            heartbeat: Heartbeat::new(connection.ping_pong().filter(|_| !limits.is_trusted())),
            connection,
            streams: FuturesUnordered::new(),
            limits,
            resets: Bucket::new(RESETS, now.into_std()),
            begun: false,
            used: now,
            leaving: Leaving::No,
        }
    }

    /// One turn; ready when the connection has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        leave: Pin<&mut impl Future<Output = ()>>,
        batch: &Batch<I>,
        handle: &impl Fn(Box<Request<Body>>) -> F,
    ) -> Poll<Result<(), h2::Error>> {
        if self.leaving == Leaving::No && leave.poll(cx).is_ready() {
            self.leave();
        }
        loop {
            // The streams first, so that the connection writes what they have to say.
            while let Poll::Ready(Some(ended)) = self.streams.poll_next_unpin(cx) {
                if self.ended(ended).is_err() {
                    return Poll::Ready(Ok(()));
                }
            }
            let before = self.streams.len();
            while let Poll::Ready(next) = self.connection.poll_accept(cx) {
                let Some((request, respond)) = next.transpose()? else { return Poll::Ready(Ok(())) };
                self.streams.extend(self.accept(request, respond, handle));
            }
            if self.streams.len() == before {
                break;
            }
            self.begun = true;
        }
        match self.heartbeat.poll(cx, || batch.heard()) {
            Poll::Pending => (),
            Poll::Ready(Beat::Lives) => {
                self.look_after();
                // What it may have to say now is said by the next turn.
                cx.waker().wake_by_ref();
            }
            Poll::Ready(Beat::Dead) => return Poll::Ready(Ok(())),
        }
        Poll::Pending
    }

    /// Tells the caller to go elsewhere.
    fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Told(Instant::now());
            self.connection.graceful_shutdown();
        }
    }

    /// A stream has ended; an error if it was one too many that was reset.
    fn ended(&mut self, ended: Ended) -> Result<(), ()> {
        match ended {
            Ended::Answered => (),
            Ended::Elsewhere => self.leave(),
            Ended::Reset => {
                let too_many = !self.limits.is_trusted() && !self.resets.take(clock::now().into_std());
                if too_many {
                    warn!("cut a caller off that resets its streams");
                    return Err(());
                }
            }
        }
        Ok(())
    }

    /// Now and then.
    fn look_after(&mut self) {
        let busy = std::mem::take(&mut self.begun) || self.connection.has_streams();
        match self.leaving {
            Leaving::No if busy || self.limits.is_trusted() => self.used = Instant::now(),
            Leaving::No if self.used.elapsed() >= IDLE => self.leave(),
            Leaving::No => (),
            Leaving::Told(at) if at.elapsed() >= heartbeat::INTERVAL => self.leaving = Leaving::Over,
            Leaving::Told(_) => (),
            // Whoever knows it has ended the connection.
            Leaving::Over if !busy => self.connection.abrupt_shutdown(Reason::NO_ERROR),
            Leaving::Over => (),
        }
    }

    /// A stream, unless it is one that nobody may open.
    fn accept(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        handle: impl Fn(Box<Request<Body>>) -> F,
    ) -> Option<Stream<F>> {
        if self.leaving == Leaving::Over {
            respond.send_reset(Reason::REFUSED_STREAM);
            return None;
        }
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
        // Each is made where it will be, instead of being moved there.
        let request = Box::write(Box::new_uninit(), Request::from_parts(head, Body::passing(source)));
        // Boxed, so that its memory goes when the body of its answer begins.
        let answer = Box::into_pin(Box::write(Box::new_uninit(), handle(request)));
        Some(Stream::Answering(Answering { answer, respond, withheld, switch, looked: false }))
    }
}

/// A request, until its answer has been sent.
enum Stream<F> {
    /// It is being answered.
    Answering(Answering<F>),
    /// Its answer's body is being sent.
    Sending(Sending, Ended),
}

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

struct Answering<F> {
    answer: Pin<Box<F>>,
    respond: SendResponse<Bytes>,
    /// The answer is to have no body, whatever it says of it.
    withheld: bool,
    switch: Option<Switch>,
    /// It had not been reset when its answer was begun.
    looked: bool,
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
        // A panic is this stream's alone: a peer's connection carries the requests of many.
        catch_unwind(AssertUnwindSafe(|| stream.advance(cx))).unwrap_or_else(|_| {
            error!("a request was given up: this program has a defect");
            stream.reset();
            Poll::Ready(Ended::Answered)
        })
    }
}

impl<F: Future<Output = Answer>> Stream<F> {
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Self::Answering(answering) = self {
            match ready!(answering.poll(cx)) {
                (Some(sending), ended) => *self = Self::Sending(sending, ended),
                (None, ended) => return Poll::Ready(ended),
            }
        }
        let Self::Sending(sending, ended) = self else { return Poll::Pending };
        sending.poll(cx).map(|sent| {
            if let Err(error) = sent {
                debug!(%error, "an answer was not sent whole");
            }
            *ended
        })
    }

    fn reset(&mut self) {
        match self {
            Self::Answering(answering) => answering.respond.send_reset(Reason::INTERNAL_ERROR),
            Self::Sending(sending, _) => sending.reset(Reason::INTERNAL_ERROR),
        }
    }
}

impl<F: Future<Output = Answer>> Answering<F> {
    /// Ready when the head of the answer has been sent. Its body, if it has one, is sent next.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Option<Sending>, Ended)> {
        // What was reset before anybody looked at it costs nothing more.
        if !self.looked && self.respond.poll_reset(cx).is_ready() {
            return Poll::Ready((None, Ended::Reset));
        }
        match self.answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(self.send(answer)),
            Poll::Pending if std::mem::replace(&mut self.looked, true) => {
                self.respond.poll_reset(cx).map(|_| (None, Ended::Reset))
            }
            // It has just been asked for.
            Poll::Pending => Poll::Pending,
        }
    }

    fn send(&mut self, answer: Answer) -> (Option<Sending>, Ended) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(reset) => {
                self.respond.send_reset(passed_on(reset.reason()));
                return (None, Ended::Answered);
            }
        };
        let ended = if sends_elsewhere(&answer) { Ended::Elsewhere } else { Ended::Answered };
        let (mut head, mut body) = answer.into_parts();
        if self.withheld {
            body = body.withheld();
        }
        form::for_stream(&mut head.headers);
        if !head.headers.contains_key(DATE) {
            head.headers.insert(DATE, date::now());
        }
        let switch = self.switch.take().filter(|_| head.status.is_success());
        if switch.is_some() {
            head.headers.remove(CONTENT_LENGTH);
        } else if let Some(length) = body.own_length() {
            head.headers.insert(CONTENT_LENGTH, length.into());
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
mod tests;
