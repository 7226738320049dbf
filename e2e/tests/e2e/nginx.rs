//! Services that already run, unchanged: two nginx servers, `firedrill init`, one drill.

use std::{path::Path, process::Stdio, time::Duration};

use e2e::{
    process::{gone, run, wait_until},
    web::Web,
};
use serde_json::Value;
use tokio::process::{Child, Command};

/// A real nginx on an address of its own; `None` says why not.
fn nginx(folder: &Path, name: &str, address: &str) -> Option<Child> {
    let config = format!(
        "daemon off; master_process off; pid {0}/{name}.pid; error_log {0}/{name}.log;\n\
         events {{}}\nhttp {{ access_log off; client_body_temp_path {0}/{name}.b; proxy_temp_path {0}/{name}.p; fastcgi_temp_path {0}/{name}.f; \
         uwsgi_temp_path {0}/{name}.u; scgi_temp_path {0}/{name}.s; server {{ listen {address}; location / {{ return 200 \"{name}\\n\"; }} }} }}\n",
        folder.display()
    );
    let file = folder.join(format!("{name}.conf"));
    std::fs::write(&file, config).expect("written");
    let binary = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).is_file())?;
    let child = Command::new(binary).arg("-c").arg(&file).stderr(Stdio::null()).kill_on_drop(true).spawn();
    Some(child.expect("nginx starts"))
}

#[tokio::test]
async fn two_nginx_servers_are_drilled_without_a_change_to_them() {
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    let path = folder.path().to_str().expect("UTF-8").to_owned();
    let (east, west, edge) = ("127.206.1.1:8081", "127.206.1.2:8082", "127.206.1.3:8080");
    let (Some(mut first), Some(mut second)) = (nginx(folder.path(), "east", east), nginx(folder.path(), "west", west))
    else {
        println!("skipped: no nginx; `make tools` installs it");
        return;
    };
    for address in [east, west] {
        wait_until(Duration::from_secs(10), || {
            std::net::TcpStream::connect(address).map(drop).map_err(|e| format!("{address}: {e}"))
        })
        .await;
    }
    let answer = Web::default().get(east.parse().unwrap(), "/").await.expect("nginx answers");
    assert_eq!(&answer.body[..], b"east\n");

    let mesh = format!("{path}/mesh");
    let (primary, standby) = (format!("east={east}"), format!("west={west}"));
    let args = ["init", &mesh, "--service", "web", "--primary", &primary, "--standby", &standby, "--listen", edge];
    let init = run(&args, Duration::from_secs(10)).await;
    assert_eq!(init.code, Some(0), "{init:?}");
    let check = run(&["check", "-f", &mesh], Duration::from_secs(10)).await;
    assert_eq!(check.code, Some(0), "{check:?}");

    let (state, out) = (format!("{path}/state"), format!("{path}/out"));
    let args = ["drill", "run", "lose-east", "-f", &mesh, "--state", &state, "--out", &out, "--format", "json"];
    let drill = run(&args, Duration::from_secs(120)).await;
    println!("{}", drill.err);
    assert_eq!(drill.code, Some(0), "{drill:?}");
    let results: Value = serde_json::from_str(&drill.out).expect("JSON");
    assert_eq!(results["verdict"], "passed");
    // The standby answered while east was cut off, and clients did not notice, or only briefly.
    let probe = &results["probes"][0];
    assert!(probe["fault"]["regions"]["west"].as_f64().expect("west answered") > 50.0, "{probe}");

    let bundle = format!("{out}/lose-east-1.drill");
    let verified = run(&["evidence", "verify", &bundle], Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
    for server in [&mut first, &mut second] {
        server.kill().await.expect("ends");
    }
    gone(folder.path(), Duration::from_secs(5)).await;
}
