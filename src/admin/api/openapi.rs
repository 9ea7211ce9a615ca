//! The description of the API for programs, made from the code that serves it.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::Server;
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr};

use super::{closed_paths, open_paths};
use crate::admin::Admin;
use crate::admin::problem::Problem;

/// This document
#[utoipa::path(
    get, path = "/api/v1/openapi.json", operation_id = "showOpenApi", tag = "broker",
    responses((status = 200, description = "The API as OpenAPI describes it", body = Object)),
)]
pub(super) async fn document(State(admin): State<Admin>) -> Json<OpenApi> {
    static WHOLE: LazyLock<OpenApi> = LazyLock::new(whole);
    let mut document = WHOLE.clone();
    if let Some(url) = &admin.lifecycle.settings.load().admin.public_url {
        document.servers = Some(vec![Server::new(url.to_string().trim_end_matches('/'))]);
    }
    Json(document)
}

/// Over the Unix socket all of it is open; the security is that of TCP.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "runner-broker",
        description = "Enrollment tokens, runners and events of a runner broker. Over TCP, with the \
                       admin token as a bearer token; on the broker's Unix socket, without. Lists \
                       come in pages: the header `Link` names the next one. Every error is a \
                       problem as RFC 9457 words it.",
    ),
    security(("adminToken" = [])),
    tags(
        (name = "tokens", description = "What runners show to join"),
        (name = "runners", description = "Who has joined"),
        (name = "events", description = "Who did what, and when"),
        (name = "broker", description = "The broker itself"),
    ),
    components(schemas(Problem)),
)]
struct Frame;

fn whole() -> OpenApi {
    let (mut closed, open) = (closed_paths().into_openapi(), open_paths().into_openapi());
    for operation in operations(&mut closed) {
        for (status, description) in [
            ("400", "The request cannot be read"),
            ("401", "The admin token is missing or wrong"),
            ("403", "No admin token is configured, or the address is not let in"),
            ("429", "Too many wrong admin tokens"),
        ] {
            let answer = ResponseBuilder::new().description(description).build().into();
            operation.responses.responses.entry(status.into()).or_insert(answer);
        }
    }
    let mut document = <Frame as utoipa::OpenApi>::openapi();
    document.merge(closed);
    document.merge(open);
    for operation in operations(&mut document) {
        let failed = ResponseBuilder::new().description("The broker made a mistake").build().into();
        operation.responses.responses.entry("500".into()).or_insert(failed);
        for (status, answer) in &mut operation.responses.responses {
            if let (true, RefOr::T(answer)) = (is_problem(status), answer) {
                *answer = problem(status, std::mem::take(answer));
            }
        }
    }
    let components = document.components.get_or_insert_default();
    for (name, description) in [
        ("adminToken", "The content of the file that `admin.token_file` names"),
        ("enrollmentToken", "A reusable enrollment token: `rb_…`"),
    ] {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description));
        components.add_security_scheme(name, SecurityScheme::Http(scheme.build()));
    }
    document
}

fn is_problem(status: &str) -> bool {
    status.starts_with(['4', '5'])
}

/// The answer with its body, and the headers that such a status has.
fn problem(status: &str, answer: Response) -> Response {
    let schema = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let mut answer = answer;
    answer.content.insert("application/problem+json".into(), RefOr::T(schema));
    let header = match status {
        "401" => "WWW-Authenticate",
        "429" | "503" => "Retry-After",
        _ => return answer,
    };
    answer.headers.insert(header.into(), RefOr::T(utoipa::openapi::Header::default()));
    answer
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document
        .paths
        .paths
        .values_mut()
        .flat_map(|PathItem { get, post, delete, .. }| [get, post, delete].into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        serde_json::to_value(whole()).unwrap()
    }

    /// Method, path, and what can come of it.
    fn described(document: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let statuses: Vec<_> =
                    operation["responses"].as_object().unwrap().keys().cloned().collect();
                lines.push(format!("{} {path} {}", method.to_uppercase(), statuses.join(" ")));
            }
        }
        lines.sort_unstable();
        lines
    }

    #[test]
    fn every_route_is_described_with_all_that_can_come_of_it() {
        let expected = [
            "DELETE /api/v1/runners/{id} 200 400 401 403 404 409 429 500 502 503",
            "DELETE /api/v1/tokens/{id} 200 400 401 403 404 409 429 500 503",
            "GET /api/v1/events 200 400 401 403 429 500 503",
            "GET /api/v1/openapi.json 200 400 401 403 429 500",
            "GET /api/v1/runners 200 400 401 403 429 500",
            "GET /api/v1/runners/{id} 200 400 401 403 404 409 429 500",
            "GET /api/v1/status 200 400 401 403 429 500",
            "GET /api/v1/tokens 200 400 401 403 429 500",
            "GET /api/v1/tokens/{id} 200 400 401 403 404 429 500",
            "POST /api/v1/runners/adopt 201 400 401 403 409 413 415 422 429 500 503",
            "POST /api/v1/runners/prune 200 400 401 403 429 500",
            "POST /api/v1/runners/{id}/drain 202 400 401 403 404 409 429 500 503",
            "POST /api/v1/tokens 201 400 401 403 409 413 415 422 429 500 503",
            "POST /api/v1/tokens/exchange 201 400 401 403 413 415 422 429 500 503",
            "POST /api/v1/tokens/{id}/disable 200 400 401 403 404 409 429 500 503",
            "POST /api/v1/tokens/{id}/enable 200 400 401 403 404 409 429 500 503",
            "POST /api/v1/tokens/{id}/pin 200 400 401 403 404 409 429 500 503",
            "POST /api/v1/tokens/{id}/rotate 200 400 401 403 404 409 422 429 500 503",
            "POST /api/v1/tokens/{id}/unpin 200 400 401 403 404 409 429 500 503",
        ];
        assert_eq!(described(&document()), expected);
    }

    #[test]
    fn errors_are_problems_and_each_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for reference in text.split(r##""$ref":"#"##).skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        for operation in document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|methods| methods.as_object().unwrap().values())
        {
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let media = answer["content"].as_object().unwrap();
                let expected = match is_problem(status) {
                    true => "application/problem+json",
                    false => "application/json",
                };
                assert!(media.keys().eq([expected]), "{status} {answer}");
            }
        }
    }

    #[test]
    fn words_bounds_and_secrets_are_described() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let token = &schemas["Token"]["properties"];
        assert_eq!(token["kind"]["enum"], json!(["reusable", "single_use"]));
        assert_eq!(token["created_at"]["format"], "date-time");
        assert_eq!(token["expires_at"]["format"], "date-time");
        let new = &schemas["NewToken"];
        assert_eq!(new["additionalProperties"], false);
        assert_eq!(new["required"], Value::Null);
        assert_eq!(new["properties"]["max_uses"]["minimum"], 1);
        assert_eq!(new["properties"]["kind"]["enum"], json!(["reusable", "single_use", null]));
        let states = schemas["Runner"]["properties"]["state"]["enum"].as_array().unwrap();
        assert!(states.contains(&json!("idle")) && states.contains(&json!("deregistered")));
        let limit = &document["paths"]["/api/v1/tokens"]["get"]["parameters"][0]["schema"];
        assert_eq!((&limit["minimum"], &limit["maximum"]), (&json!(1), &json!(1000)));
        let exchange = &document["paths"]["/api/v1/tokens/exchange"]["post"];
        assert_eq!(exchange["security"], json!([{"enrollmentToken": []}]));
        assert_ne!(exchange["requestBody"]["required"], true);
        assert_eq!(document["security"], json!([{"adminToken": []}]));
        assert_eq!(document["components"]["securitySchemes"]["adminToken"]["scheme"], "bearer");
        assert!(token["secret"].is_null() && token["id"].is_object());
    }
}
