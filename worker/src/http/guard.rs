//! Who may ask: the host that is named, the page that asks, the token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::HttpOptions;
use super::error::HttpError;

/// Lets a request pass, or answers it.
pub(super) async fn guard(
    State(options): State<Arc<HttpOptions>>,
    request: Request,
    next: Next,
) -> Response {
    match check(&options, request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(options: &HttpOptions, headers: &HeaderMap, uri: &Uri) -> Result<(), HttpError> {
    // A page of another site can make a browser ask, under a name that leads to this machine.
    let host = text(headers, &HOST).or_else(|| uri.authority().map(|host| host.as_str()));
    if !host.is_some_and(|host| is_own(options, host)) {
        let message = "the Host header names another host: use the server's own address";
        return Err(HttpError::new(StatusCode::FORBIDDEN, "foreign_host", message));
    }
    if headers.contains_key(ORIGIN)
        && !text(headers, &ORIGIN).is_some_and(|origin| is_own_origin(options, origin))
    {
        let message = "the Origin header names another site: only pages of this server's own \
                       scheme, host and port may ask";
        return Err(HttpError::new(StatusCode::FORBIDDEN, "foreign_origin", message));
    }
    let Some(token) = &options.token else { return Ok(()) };
    let given = text(headers, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let fits = given.is_some_and(|given| {
        constant_time_eq::constant_time_eq(given.trim().as_bytes(), token.as_bytes())
    });
    if fits {
        return Ok(());
    }
    let message = "the request needs the header `Authorization: Bearer <token>`";
    Err(HttpError::new(StatusCode::UNAUTHORIZED, "no_token", message))
}

/// A header that is there once and is text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether the origin is this server's. Whoever serves pages on another port of this machine is
/// somebody else.
fn is_own_origin(options: &HttpOptions, origin: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    // This server speaks plain HTTP, whose port browsers leave out where it is 80.
    let port = match host.strip_prefix(without_port(host)) {
        Some("") => Some(80),
        Some(port) => port.trim_start_matches(':').parse().ok(),
        None => None,
    };
    scheme.eq_ignore_ascii_case("http")
        && port == Some(options.address.port())
        && is_own(options, host)
}

/// Whether `host`, with or without a port, is a name of this server.
fn is_own(options: &HttpOptions, host: &str) -> bool {
    let name = without_port(host);
    if name.eq_ignore_ascii_case("localhost") {
        return options.address.ip().is_loopback() || options.address.ip().is_unspecified();
    }
    if options.hosts.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return true;
    }
    let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() else {
        return false;
    };
    // An address cannot be made to lead elsewhere, as a name can.
    ip == options.address.ip() || ip.is_loopback() || options.address.ip().is_unspecified()
}

fn without_port(host: &str) -> &str {
    if host.parse::<SocketAddr>().is_err() && host.ends_with(']') {
        return host;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ask(options: &HttpOptions, headers: &[(HeaderName, &str)]) -> Result<(), StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        check(options, &map, &Uri::from_static("/profile/status"))
            .map_err(|error| error.into_response().status())
    }

    fn options(address: &str, token: Option<&str>) -> HttpOptions {
        HttpOptions {
            address: address.parse().unwrap(),
            token: token.map(str::to_owned),
            hosts: vec!["gpu-node-7".to_owned()],
        }
    }

    #[test]
    fn only_own_names_pass() {
        let options = options("127.0.0.1:8790", None);
        for host in ["127.0.0.1:8790", "localhost", "LOCALHOST:1", "[::1]:8790", "gpu-node-7:9"] {
            assert_eq!(ask(&options, &[(HOST, host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:8790", "localhost.evil.example", "10.0.0.1", ""]
        {
            assert_eq!(ask(&options, &[(HOST, host)]), Err(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(ask(&options, &[]), Err(StatusCode::FORBIDDEN));
        let twice = [(HOST, "localhost"), (HOST, "evil.example")];
        assert_eq!(ask(&options, &twice), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let options = options("127.0.0.1:8790", None);
        let host = (HOST, "localhost:8790");
        for origin in [
            "https://evil.example",
            "null",
            "http://evil.example:8790",
            "garbage",
            "",
            // Other servers of this machine.
            "http://localhost:3000",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "http://localhost",
            "http://localhost:",
            "http://gpu-node-7",
            "https://localhost:8790",
            "file://localhost:8790",
            "http://localhost:8790/x",
            "http://localhost:08790x",
        ] {
            let asked = ask(&options, &[host.clone(), (ORIGIN, origin)]);
            assert_eq!(asked, Err(StatusCode::FORBIDDEN), "{origin}");
        }
        for origin in [
            "http://localhost:8790",
            "http://127.0.0.1:8790",
            "http://[::1]:8790",
            "http://gpu-node-7:8790",
        ] {
            assert_eq!(ask(&options, &[host.clone(), (ORIGIN, origin)]), Ok(()), "{origin}");
        }
        let twice = [(ORIGIN, "http://localhost:8790"), (ORIGIN, "http://localhost:3000")];
        let [first, second] = twice;
        assert_eq!(ask(&options, &[host, first, second]), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn the_usual_port_is_not_spelled_out() {
        let options = options("127.0.0.1:80", None);
        let host = (HOST, "localhost");
        assert_eq!(ask(&options, &[host.clone(), (ORIGIN, "http://localhost")]), Ok(()));
        let other = ask(&options, &[host, (ORIGIN, "http://localhost:8790")]);
        assert_eq!(other, Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn the_token_is_needed_where_there_is_one() {
        let options = options("0.0.0.0:8790", Some("0123456789abcdef"));
        let host = (HOST, "192.0.2.7:8790");
        let unauthorized = Err(StatusCode::UNAUTHORIZED);
        assert_eq!(ask(&options, std::slice::from_ref(&host)), unauthorized);
        for value in ["Bearer wrong", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert_eq!(ask(&options, &[host.clone(), (AUTHORIZATION, value)]), unauthorized);
        }
        assert_eq!(ask(&options, &[host, (AUTHORIZATION, "Bearer 0123456789abcdef")]), Ok(()));
    }
}
