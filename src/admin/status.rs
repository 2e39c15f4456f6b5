//! The status page: plain text, as it is read with curl as often as with a browser.

use std::fmt::Write;

use super::Admin;
use super::view::{self, Listed, names, state};
use super::warnings::Warnings;
use crate::issue::signing_cas::SigningCa;
use crate::model::bundle::Bundle;
use crate::model::text::escaped;
use crate::serve::refusals::Refused;

/// The most proxies that are listed.
const LISTED: usize = 500;

/// The most refusals that are listed.
const REFUSED: usize = 32;

/// The most names of one proxy, and the most characters of each.
const NAMES: usize = 16;
const NAME: usize = 128;

pub(super) fn page(admin: &Admin) -> String {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = write(&mut page, admin);
    page
}

fn write(page: &mut String, admin: &Admin) -> std::fmt::Result {
    let reasons = admin.readiness.reasons();
    let state = if reasons.is_empty() { "ready" } else { "not ready" };
    writeln!(page, "envoy-sds {}: {state}", env!("CARGO_PKG_VERSION"))?;
    for (name, reason) in reasons {
        writeln!(page, "  waiting for {name}: {reason}")?;
    }
    writeln!(page, "listening on {}", admin.listeners.join(", "))?;
    meshes(page, admin)?;
    for (about, texts) in Warnings::of(admin).into_texts() {
        writeln!(page, "\n! {about}")?;
        for text in texts {
            writeln!(page, "    {text}")?;
        }
    }
    refusals(page, &admin.refusals.snapshot())?;
    proxies(page, &view::proxies(admin.roster.snapshot(), admin.manager.snapshot()))
}

/// Whom the server has refused lately; nothing if there is nobody.
fn refusals(page: &mut String, refusals: &[Refused]) -> std::fmt::Result {
    if refusals.is_empty() {
        return Ok(());
    }
    writeln!(page, "\nrefused lately (all of them: envoy-sds proxies --refused): {}", refusals.len())?;
    for Refused { host, node_id, reason, last, count, .. } in refusals.iter().take(REFUSED) {
        let node = node_id.as_deref().map(|id| format!(" ({})", escaped(id))).unwrap_or_default();
        writeln!(page, "  {host}{node}: {}; {count} times, the last at {last}", escaped(reason))?;
    }
    Ok(())
}

fn meshes(page: &mut String, admin: &Admin) -> std::fmt::Result {
    let (trust, outlooks, signing) = (admin.trust.all(), admin.manager.outlooks(), admin.manager.signing_cas());
    for policy in admin.policies.borrow().meshes.values() {
        writeln!(page, "\nmesh {}", policy.name)?;
        for backend in &policy.backends {
            let name = &backend.name;
            let classic = (Some(name) == policy.enabled_backend.as_ref()).then(|| "signs".to_owned());
            let identities = policy.identities.iter().filter(|identity| identity.backend == *name);
            let identities = identities.map(|identity| format!("signs for MeshIdentity {}", identity.name));
            let roles: Vec<String> = classic.into_iter().chain(identities).collect();
            let role = if roles.is_empty() { "is trusted".to_owned() } else { roles.join(", ") };
            writeln!(page, "  backend {name} ({}) {role}", backend.kind.label())?;
        }
        if let Some(outlook) = outlooks.get(&policy.name) {
            writeln!(page, "  {outlook}")?;
        }
        match trust.borrow().meshes.get(&policy.name) {
            None => writeln!(page, "  trust bundle: not known yet")?,
            Some(bundle) => {
                writeln!(page, "  trust bundle {}", bundle.digest())?;
                cas(page, bundle)?;
            }
        }
        let own = policy.own_trust_domains();
        for (domain, bundle) in trust.borrow().told_by(policy).iter().filter(|(domain, _)| !own.contains(domain)) {
            writeln!(page, "  trust domain {domain}, which is foreign")?;
            cas(page, bundle)?;
        }
        if let Some(SigningCa { subject, validity }) = signing.get(&policy.name) {
            let (subject, until) = (escaped(subject), validity.not_after);
            writeln!(page, "  of the CAs that certificates in use lead through, {subject} ends first, at {until}")?;
        }
    }
    Ok(())
}

fn cas(page: &mut String, bundle: &Bundle) -> std::fmt::Result {
    for ca in bundle.certificates() {
        writeln!(page, "    {} until {}", escaped(ca.subject()), ca.validity().not_after)?;
    }
    Ok(())
}

fn proxies(page: &mut String, proxies: &[Listed]) -> std::fmt::Result {
    writeln!(page, "\nproxies: {}", proxies.len())?;
    for proxy in proxies.iter().take(LISTED) {
        let key = escaped(&proxy.key.to_string());
        let renewal = proxy.status.next.map(|next| format!(", next due {next}")).unwrap_or_default();
        match (&proxy.svid, proxy.status.held_until) {
            (None, None) => writeln!(page, "  {key} in {}: no certificate yet", proxy.key.mesh)?,
            (None, Some(until)) => {
                writeln!(
                    page,
                    "  {key} in {}: a certificate that only the proxy has, until {until}{renewal}",
                    proxy.key.mesh
                )?;
            }
            (Some(svid), _) => {
                writeln!(
                    page,
                    "  {key} in {}: serial {} by {} until {}{renewal}",
                    proxy.key.mesh,
                    svid.leaf.serial(),
                    escaped(svid.leaf.issuer()),
                    svid.validity().not_after
                )?;
            }
        }
        for (name, record) in proxy.streams.iter().flat_map(names).take(NAMES) {
            let name = escaped(&name.chars().take(NAME).collect::<String>());
            let state = state(record).as_str_name().trim_start_matches("SUBSCRIPTION_STATE_").to_lowercase();
            match &record.nacked {
                None => writeln!(page, "    {name}: {state}")?,
                Some((_, time, reason)) => {
                    writeln!(page, "    {name}: {state}; rejected at {time}: {}", escaped(reason))?
                }
            }
        }
    }
    if proxies.len() > LISTED {
        writeln!(page, "  and {} more", proxies.len() - LISTED)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::certs::timestamp;

    #[test]
    fn refusals_are_shown_and_cannot_write_on_a_terminal() {
        let refused = Refused {
            host: "192.0.2.1".into(),
            node_id: Some("\u{1b}[2Jweb".into()),
            method: Some("proxyToken"),
            reason: "not allowed: \u{202e}no".into(),
            first: timestamp(1),
            last: timestamp(2),
            count: 3,
        };
        let mut page = String::new();
        refusals(&mut page, &vec![refused; REFUSED + 1]).unwrap();
        let line = "  192.0.2.1 (\\u{1b}[2Jweb): not allowed: \\u{202e}no; 3 times, the last at 1970-01-01T00:00:02Z";
        assert_eq!(page.lines().filter(|shown| *shown == line).count(), REFUSED, "{page}");
        assert!(page.contains("--refused): 33\n"), "{page}");
        let mut nothing = String::new();
        refusals(&mut nothing, &[]).unwrap();
        assert_eq!(nothing, "");
    }
}
