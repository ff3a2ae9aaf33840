//! Failures as problems (RFC 9457).

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use crate::api::{PROBLEM_TYPE, Problem};
use crate::failure::{Code, Failure, Label};

use super::auth::Permission;

/// The header that tells a request in the log.
const REQUEST_ID: &str = "x-request-id";

/// A request's path and id, for its problem.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    path: String,
    request_id: String,
}

impl Origin {
    fn of(path: &str, headers: &HeaderMap) -> Self {
        let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        Self { path: path.to_owned(), request_id: id.unwrap_or_default().to_owned() }
    }
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = core::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts.uri.path(), &parts.headers))
    }
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub(super) struct Rejected {
    failure: Box<Failure>,
    origin: Origin,
    status: Option<StatusCode>,
    requires: Option<Permission>,
}

impl Rejected {
    pub(super) fn new(failure: Failure, request: &Request) -> Self {
        Self::at(failure, Origin::of(request.uri().path(), request.headers()))
    }

    pub(super) fn of_parts(failure: Failure, parts: &Parts) -> Self {
        Self::at(failure, Origin::of(parts.uri.path(), &parts.headers))
    }

    pub(super) fn at(failure: Failure, origin: Origin) -> Self {
        Self { failure: Box::new(failure), origin, status: None, requires: None }
    }

    pub(super) const fn requires(mut self, permission: Permission) -> Self {
        self.requires = Some(permission);
        self
    }

    pub(super) const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
}

impl IntoResponse for Rejected {
    fn into_response(self) -> Response {
        let Failure { code, message, labels, params, .. } = *self.failure;
        let kind = code.kind();
        let status = self
            .status
            .or_else(|| StatusCode::from_u16(kind.status()).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            // The caller is told the code and the request; the cause stays here.
            tracing::error!(
                code = code.text(),
                req = self.origin.request_id,
                cause = message,
                "api.failed"
            );
        }
        let word = |label| match label {
            Label::From => "from",
            Label::Cause => "cause",
            Label::Try => "try",
            Label::Or => "or",
            Label::See => "see",
            Label::Compare => "compare",
        };
        let problem = Problem {
            kind: format!("/problems/{}", code.text()),
            title: message,
            status: status.as_u16(),
            instance: self.origin.path,
            request_id: self.origin.request_id,
            code: code.text().to_owned(),
            exit: kind.exit(),
            labels: labels
                .into_iter()
                .map(|(label, text)| (word(label).to_owned(), text))
                .collect(),
            params: params.into_iter().map(|(name, value)| (name.into_owned(), value)).collect(),
            required_permission: self.requires.map(|permission| permission.word().to_owned()),
        };
        let mut response = (status, Json(problem)).into_response();
        let kind = HeaderValue::from_static(PROBLEM_TYPE);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// A JSON body, refused with a problem.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Rejected;

    async fn from_request(request: Request, state: &S) -> Result<Self, Rejected> {
        let origin = Origin::of(request.uri().path(), request.headers());
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => {
                let status = rejection.status();
                let failure = Failure::new(Code::ApiBody, describe(&rejection));
                Err(Rejected::at(failure, origin).with_status(status))
            }
        }
    }
}

fn describe(rejection: &JsonRejection) -> String {
    match rejection {
        JsonRejection::MissingJsonContentType(_) => "the body must be application/json".to_owned(),
        other => sentence(&other.body_text()),
    }
}

/// Another crate's text in our shape: lower-case start, no full stop.
fn sentence(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).filter(|c| !c.is_control()).collect()
    })
}

/// Query parameters, refused with a problem.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Rejected;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejected> {
        let parsed = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        parsed.map(|axum::extract::Query(value)| Self(value)).map_err(
            |rejection: QueryRejection| {
                let failure = Failure::new(Code::ApiBody, sentence(&rejection.body_text()));
                Rejected::of_parts(failure, parts).with_status(rejection.status())
            },
        )
    }
}

/// Gives every request an id, in its answer's header too. One that a caller
/// brings is not believed.
pub(super) async fn give_request_id(mut request: Request, next: Next) -> Response {
    let id = HeaderValue::from_str(&new_request_id()).ok();
    if let Some(id) = id.clone() {
        request.headers_mut().insert(REQUEST_ID, id);
    }
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Counts requests of this process: unique in its log, and no secret.
fn new_request_id() -> String {
    use core::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("req-{:08x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(super) async fn no_route(request: Request) -> Rejected {
    let failure = Failure::new(Code::ApiNoRoute, format!("there is no {}", request.uri().path()));
    Rejected::new(failure, &request)
}

pub(super) async fn no_method(request: Request) -> Rejected {
    let message = format!("{} is not possible on {}", request.method(), request.uri().path());
    let failure = Failure::new(Code::ApiNoRoute, message);
    Rejected::new(failure, &request).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The version that If-Match names; a change without one is refused.
pub(super) fn if_match(headers: &HeaderMap, origin: &Origin) -> Result<u64, Rejected> {
    let value = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let version = value.and_then(|value| value.trim_matches('"').parse().ok());
    version.ok_or_else(|| {
        let message = "If-Match must name the revision that was read";
        Rejected::at(Failure::new(Code::ApiBody, message), origin.clone())
            .with_status(StatusCode::PRECONDITION_REQUIRED)
    })
}

/// A single resource with its version as ETag.
pub(super) fn with_etag<T: serde::Serialize>(version: u64, body: T) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{version}\"")).ok();
    let mut response = Json(body).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
