//! HTTP/1 connections. One that is idle holds no buffers: hyper keeps 16 KiB for each connection that it serves, so it
//! serves none whose client has nothing to say.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    Request,
    body::{Body as _, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    requests::Requests,
    respond::Answer,
    serve::{HEAD_MAX, Limits, last, sends_elsewhere},
};
use crate::{
    body::Body,
    drain::{Draining, Stage},
    memory,
    net::{peek::Peeked, stream::Stream},
};

/// A connection without a request for this long holds no buffers. Soon, so that the next one takes them over.
const IDLE: Duration = Duration::from_millis(200);
/// With more connections than this that hold some, one gives them up with each answer, and the next takes them over while
/// they are still in the CPU's cache; many that come at once do not each leave a gap of 16 KiB between what they keep.
const WARM_MAX: usize = 128;

/// How many connections hold buffers.
static WARM: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Warm;

impl Warm {
    fn begin() -> Self {
        WARM.fetch_add(1, Relaxed);
        Self
    }

    fn is_crowded() -> bool {
        WARM.load(Relaxed) > WARM_MAX
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        if WARM.fetch_sub(1, Relaxed) == WARM_MAX + 1 {
            // The crowd is over: what it has left nobody may take over any more.
            memory::give_back_soon();
        }
    }
}

/// What is known of a connection besides what hyper knows.
#[derive(Default)]
struct State {
    /// The client has not been given all that was written for it.
    unflushed: AtomicBool,
    /// The last request had no body, of which something could still be on its way.
    bodiless: AtomicBool,
}

impl State {
    /// hyper holds nothing that is still to be read or written, if no request runs.
    fn is_settled(&self) -> bool {
        self.bodiless.load(Relaxed) && !self.unflushed.load(Relaxed)
    }
}

/// Why a connection gives up what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Its client has said nothing for long.
    Long,
    /// There are too many; others take it over, so that it need not go back to the kernel.
    Crowded,
}

/// How hyper's part has ended.
enum Served<S> {
    /// With the connection.
    Whole(hyper::Result<()>),
    /// The client has nothing to say; so much was read and not used.
    Idle(Peeked<S>, Bytes, Pause),
}

/// Serves a connection's requests until it ends or drains.
///
/// A kept connection that is closed while its client sends the next request fails that request, so callers are told with a
/// response; idle connections are closed only when the application has ended.
pub(super) async fn serve<S, F, Fut>(
    mut io: Peeked<S>,
    limits: Limits,
    mut draining: Draining,
    handle: F,
) -> hyper::Result<()>
where
    S: Stream + 'static,
    F: Fn(Box<Request<Body>>) -> Fut + Send,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let plain = io.is_plain();
    loop {
        // Boxed: its memory goes back, too.
        let rest = match Box::pin(serve_until_idle(io, limits, &draining, &handle, plain)).await {
            Served::Whole(ended) => return ended,
            Served::Idle(client, rest, pause) => {
                io = client;
                if pause == Pause::Long {
                    memory::give_back_soon();
                }
                rest
            }
        };
        // A head that has begun must end within hyper's limit, and is no reason to pause.
        if !rest.is_empty() {
            io.unread(&rest);
        }
        // It is 8 KiB for as long as anything refers to it, even to nothing of it.
        drop(rest);
        if io.ahead().is_empty() && !pause(io.socket(), limits, &mut draining).await {
            return Ok(());
        }
    }
}

async fn serve_until_idle<S, F, Fut>(
    io: Peeked<S>,
    limits: Limits,
    draining: &Draining,
    handle: &F,
    pauses: bool,
) -> Served<S>
where
    S: Stream + 'static,
    F: Fn(Box<Request<Body>>) -> Fut + Send,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let _warm = pauses.then(Warm::begin);
    let (requests, state) = (&Requests::new(), &Arc::new(State::default()));
    let service = service_fn(|request: Request<Incoming>| {
        state.bodiless.store(request.body().is_end_stream(), Relaxed);
        let running = requests.begin();
        // Boxed: hyper keeps room for what this returns as long as the connection lasts, idle or not.
        let answer = Box::pin(handle(Box::new(request.map(|body| Body::passing(body.into())))));
        async move {
            answer.await.map(|answer| {
                let stays = draining.stage() < limits.leaves && !sends_elsewhere(&answer);
                let answer = if stays { answer } else { last(answer) };
                answer.map(|body| body.of_running(running))
            })
        }
    });
    // hyper's own bound of 100 headers stays: its default array is on the stack, a set one is not. Its
    // `pipeline_flush` stays off: with it a slow reader's whole response would be buffered.
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_MAX)
        .keep_alive(draining.stage() < Stage::Ending)
        .serve_connection(TokioIo::new(Noted { io, state: Arc::clone(state) }), service)
        .with_upgrades();
    let mut ending = draining.clone();
    tokio::select! {
        // The connection first: a request that has arrived is answered, whatever else is true.
        biased;
        ended = &mut connection => Served::Whole(ended),
        () = ending.reaches(Stage::Ending) => {
            Pin::new(&mut connection).graceful_shutdown();
            Served::Whole(connection.await)
        }
        pause = idle(requests, state), if pauses => match connection.into_parts() {
            Some(parts) => Served::Idle(parts.io.into_inner().io, parts.read_buf, pause),
            None => Served::Whole(Ok(())),
        },
    }
}

/// Returns when nothing has run on a connection for a while, and hyper holds nothing of it; at once among too many. That
/// is looked at whenever the connection has done something.
async fn idle(requests: &Requests, state: &State) -> Pause {
    let mut for_long = pin!(async {
        loop {
            requests.idle_for(IDLE).await;
            if state.is_settled() {
                return Pause::Long;
            }
            sleep(IDLE).await;
        }
    });
    poll_fn(|cx| {
        if !requests.is_idle() {
            // It ends in this task, which then looks again.
            return Poll::Pending;
        }
        let now = Warm::is_crowded() && state.is_settled();
        if now { Poll::Ready(Pause::Crowded) } else { for_long.as_mut().poll(cx) }
    })
    .await
}

/// Waits for a client's next request, with nothing in hand. `false`: it has ended, or may not be waited for any longer.
async fn pause(client: &TcpStream, limits: Limits, draining: &mut Draining) -> bool {
    let mut byte = [0];
    let next = async {
        match limits.head {
            Some(limit) => {
                timeout(limit, client.peek(&mut byte)).await.is_ok_and(|read| !matches!(read, Ok(0)))
            }
            None => !matches!(client.peek(&mut byte).await, Ok(0)),
        }
    };
    tokio::select! {
        biased;
        more = next => more,
        () = draining.reaches(Stage::Ending) => false,
    }
}

/// A connection that tells whether all that was written has gone out.
pub struct Noted<S> {
    io: Peeked<S>,
    state: Arc<State>,
}

impl<S: Stream> Stream for Noted<S> {
    fn socket(&self) -> &TcpStream {
        self.io.socket()
    }
}

impl<S: Stream> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: Stream> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.state.unflushed.store(true, Relaxed);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state.unflushed.store(true, Relaxed);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.state.unflushed.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper::Response;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::net::relay::pair;

    async fn served() -> (TcpStream, tokio::task::JoinHandle<hyper::Result<()>>) {
        let (client, server) = pair().await;
        let (drain, draining) = crate::drain::channel();
        let serving = tokio::spawn(async move {
            let _drain = drain;
            let handle = |_| async { Ok(Response::new(Body::words("yes"))) };
            // As inbound ones are served.
            serve(Peeked::new(server).boxed(), Limits::APPLICATION, draining, handle).await
        });
        (client, serving)
    }

    async fn ask(client: &mut TcpStream, request: &str) {
        client.write_all(request.as_bytes()).await.expect("write");
        answered(client).await;
    }

    async fn answered(client: &mut TcpStream) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"yes") {
            assert!(client.read_buf(&mut answer).await.expect("read") > 0, "an answer");
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

    #[tokio::test]
    async fn an_idle_connection_is_served_again_and_ends_cleanly() {
        let (mut client, serving) = served().await;
        for _ in 0..2 {
            ask(&mut client, GET).await;
            sleep(IDLE + Duration::from_millis(200)).await;
        }
        ask(&mut client, GET).await;
        drop(client);
        serving.await.expect("no panic").expect("a clean end");
    }

    #[tokio::test]
    async fn among_many_connections_each_gives_up_what_it_holds_with_its_answer() {
        let mut clients = Vec::new();
        for _ in 0..WARM_MAX + WARM_MAX / 2 {
            let (mut client, serving) = served().await;
            ask(&mut client, GET).await;
            clients.push((client, serving));
            // Other tests have connections, too.
            let warm = WARM.load(Relaxed);
            assert!(warm < WARM_MAX + WARM_MAX / 3, "{warm} hold buffers");
        }
        for (client, _) in &mut clients {
            ask(client, &[GET, GET].concat()).await;
        }
    }

    #[tokio::test]
    async fn a_head_that_was_begun_before_the_rest_is_read_whole() {
        let (mut client, _serving) = served().await;
        let (begin, end) = GET.split_at(9);
        ask(&mut client, &[GET, begin].concat()[..GET.len()]).await;
        client.write_all(begin.as_bytes()).await.expect("write");
        sleep(IDLE + Duration::from_millis(200)).await;
        ask(&mut client, end).await;
    }

    #[tokio::test]
    async fn a_body_on_its_way_is_never_taken_for_a_request() {
        let (mut client, serving) = served().await;
        ask(&mut client, "POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000\r\n\r\nbegins").await;
        sleep(2 * IDLE + Duration::from_millis(200)).await;
        // It would be an answer's beginning if it were read as a request.
        let _ = client.write_all(GET.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
        drop(client);
        let _ = serving.await.expect("no panic");
    }
}
