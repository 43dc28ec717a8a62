//! Requests to the API server: raw, so that answers can be read in either form, and bounded in time.

use crate::body::{Format, Stream};
use crate::failure::{Refusal, RequestError};
use crate::protobuf;
use crate::settings::Settings;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;

const JSON: &str = "application/json";
const BINARY: &str = "application/vnd.kubernetes.protobuf";

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) format: Format,
    pub(crate) bytes: Vec<u8>,
}

/// The way to one API server.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    settings: Settings,
}

impl Api {
    pub(crate) fn new(client: Client, settings: Settings) -> Self {
        Api { client, settings }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Reads something whole, in the form that the server prefers of those that we take.
    pub(crate) async fn read(&self, path: &str) -> Result<Answer, RequestError> {
        let accept = if self.settings.binary {
            format!("{BINARY},{JSON}")
        } else {
            JSON.to_string()
        };
        self.whole(request(Method::GET, path, &accept, None, None)?).await
    }

    /// Reads something whole as JSON; `accept` may ask for less than all of it.
    pub(crate) async fn read_json(&self, path: &str, accept: Option<&str>) -> Result<Value, RequestError> {
        self.json(request(Method::GET, path, accept.unwrap_or(JSON), None, None)?)
            .await
    }

    /// Sends a JSON body and reads the answer.
    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, RequestError> {
        let body = serde_json::to_vec(body).map_err(|error| RequestError::Broken(error.into()))?;
        self.json(request(method, path, JSON, Some(content_type), Some(body))?)
            .await
    }

    /// Opens a watch; the answer has no end of its own.
    pub(crate) async fn stream(&self, path: &str) -> Result<Stream, RequestError> {
        let accept = if self.settings.binary {
            format!("{BINARY};stream=watch,{JSON}")
        } else {
            JSON.to_string()
        };
        let request = request(Method::GET, path, &accept, None, None)?;
        let answer = self.bounded(self.send(request)).await?;
        let format = format(&answer);
        if !answer.status().is_success() {
            return Err(self.refused(answer).await);
        }
        Ok(Stream::new(answer.into_body(), format))
    }

    async fn json(&self, request: Request<Body>) -> Result<Value, RequestError> {
        let answer = self.whole(request).await?;
        serde_json::from_slice(&answer.bytes).map_err(|error| RequestError::Unreadable(error.to_string()))
    }

    async fn whole(&self, request: Request<Body>) -> Result<Answer, RequestError> {
        self.bounded(async {
            let answer = self.send(request).await?;
            if !answer.status().is_success() {
                return Err(self.refused(answer).await);
            }
            let format = format(&answer);
            let bytes = collect(answer).await?;
            Ok(Answer { format, bytes })
        })
        .await
    }

    async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        let limit = self.settings.request_timeout;
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or(Err(RequestError::Silent(limit)))
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, RequestError> {
        self.client
            .send(request)
            .await
            .map_err(|error| RequestError::Broken(error.into()))
    }

    /// What the server says in an answer that is a refusal.
    async fn refused(&self, answer: Response<Body>) -> RequestError {
        let (code, format) = (answer.status().as_u16(), format(&answer));
        let bytes = match self.bounded(collect(answer)).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        let said = match format {
            Format::Json => serde_json::from_slice(&bytes).ok(),
            Format::Binary => protobuf::object(&bytes).and_then(protobuf::refusal).ok(),
        };
        // What stands between us and the server answers in its own words.
        let mut refusal = said.unwrap_or_else(|| Refusal {
            message: String::from_utf8_lossy(&bytes).chars().take(200).collect(),
            ..Refusal::default()
        });
        refusal.code = code;
        refusal.into()
    }
}

fn request(
    method: Method,
    path: &str,
    accept: &str,
    content_type: Option<&str>,
    body: Option<Vec<u8>>,
) -> Result<Request<Body>, RequestError> {
    let mut request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    request
        .body(body.map_or_else(Body::empty, Body::from))
        .map_err(|error| RequestError::Broken(error.into()))
}

fn format(answer: &Response<Body>) -> Format {
    let written = answer
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if written.is_some_and(|form| form.starts_with(BINARY)) {
        Format::Binary
    } else {
        Format::Json
    }
}

async fn collect(answer: Response<Body>) -> Result<Vec<u8>, RequestError> {
    let collected = answer.into_body().collect().await;
    collected
        .map(|body| body.to_bytes().into())
        .map_err(|error| RequestError::Broken(error.into()))
}
