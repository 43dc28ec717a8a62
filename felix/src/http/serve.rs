//! How requests are answered, within bounds.

use super::{Listening, Page, Pages};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

/// The bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections there may be at once; one more closes the oldest.
    pub connections: usize,
    /// How long a client may take to send its request's head.
    pub head: Duration,
    /// How long a connection may last, the answer included.
    pub connection: Duration,
    /// How many header fields a request may have.
    pub fields: usize,
    /// How large a request's head may be, in bytes.
    pub head_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            head: Duration::from_secs(5),
            connection: Duration::from_secs(15),
            fields: 64,
            head_size: 16 * 1024,
        }
    }
}

/// How long the server rests when the system has no more files for it.
const REST_AFTER_REFUSAL: Duration = Duration::from_millis(100);

impl Listening {
    /// Answers requests until the future is dropped.
    ///
    /// # Errors
    /// When the runtime cannot take the socket; nothing that a client does ends it.
    pub async fn serve(self, pages: Arc<dyn Pages>, limits: Limits) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let mut connections = JoinSet::new();
        let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(REST_AFTER_REFUSAL).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            by_age.retain(|connection| !connection.is_finished());
            while by_age.len() >= limits.connections.max(1) {
                if let Some(oldest) = by_age.pop_front() {
                    oldest.abort();
                }
            }
            by_age.push_back(connections.spawn(answer_one(stream, Arc::clone(&pages), limits)));
        }
    }

    /// Answers requests on a thread of its own, so that it still tells which loop is stuck when that loop has the
    /// runtime that everything else shares.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn serve_on_thread(
        self,
        name: &str,
        pages: Arc<dyn Pages>,
        limits: Limits,
    ) -> io::Result<ServerThread> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    outcome = self.serve(pages, limits) => {
                        if let Err(error) = outcome {
                            tracing::error!(%error, "the server ended");
                        }
                    }
                    _ = stopped => {}
                }
            });
        })?;
        Ok(ServerThread {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// A server on a thread of its own; dropping it closes the server and waits for the thread.
#[derive(Debug)]
pub struct ServerThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a server thread ended in a panic");
        }
    }
}

async fn answer_one(stream: TcpStream, pages: Arc<dyn Pages>, limits: Limits) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, pages.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_headers(limits.fields)
        .max_buf_size(limits.head_size.max(SMALLEST_BUFFER))
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client did not send a proper request"),
        Err(_) => tracing::debug!("a client was too slow"),
    }
}

/// hyper refuses to work with less.
const SMALLEST_BUFFER: usize = 8192;

fn respond(request: &Request<Incoming>, pages: &dyn Pages) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = rendered(plain(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are answered here\n",
        ));
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // The answer to HEAD is that to GET; hyper leaves the body out.
    let page = pages.page(request.uri().path());
    rendered(page.unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "there is no such page\n")))
}

fn plain(status: StatusCode, body: &str) -> Page {
    Page {
        status,
        content_type: "text/plain; charset=utf-8",
        body: body.to_owned(),
    }
}

fn rendered(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    // How an agent stands is never what it was.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
