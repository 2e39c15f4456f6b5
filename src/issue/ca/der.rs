//! The little of DER (X.690) that it takes to give a certificate another issuer.

/// The certificate `der` (RFC 5280 §4.1) with `issuer` (a Name, DER) in place of its issuer, and signed by `sign`, of the
/// algorithm that it names already. `None` if `der` is no certificate of version 3.
pub(super) fn with_issuer<E>(
    der: &[u8],
    issuer: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Option<Result<Vec<u8>, E>> {
    let (certificate, _) = element(der)?;
    let (content, rest) = element(certificate.content)?;
    let (algorithm, _) = element(rest)?;
    // Version, serial number and algorithm come before the issuer.
    let mut rest = content.content;
    for _ in 0..3 {
        rest = element(rest)?.1;
    }
    let before = &content.content[..content.content.len() - rest.len()];
    let (_, after) = element(rest)?;
    let content = wrap(SEQUENCE, &[before, issuer, after]);
    // A bit string begins with how many bits of its last byte are not used.
    let signed = |signature: Vec<u8>| {
        let signature = wrap(BIT_STRING, &[&[0], &signature]);
        wrap(SEQUENCE, &[&content, algorithm.whole, &signature])
    };
    Some(sign(&content).map(signed))
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

struct Element<'d> {
    whole: &'d [u8],
    content: &'d [u8],
}

/// The first element of `der`, and what follows it.
fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let first = *der.get(1)?;
    let (header, length) = if first < 0x80 {
        (2, usize::from(first))
    } else {
        let header = 2 + usize::from(first & 0x7f);
        let digits = der.get(2..header).filter(|digits| digits.len() <= 4)?;
        (header, digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit)))
    };
    let end = header.checked_add(length)?;
    let content = der.get(header..end)?;
    Some((Element { whole: &der[..end], content }, &der[end..]))
}

/// An element with this content.
fn wrap(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let mut der = vec![tag];
    match u8::try_from(length) {
        Ok(short @ ..0x80) => der.push(short),
        _ => {
            let digits = length.to_be_bytes();
            let digits: Vec<u8> = digits.into_iter().skip_while(|digit| *digit == 0).collect();
            // A number of at most eight digits.
            der.push(0x80 | digits.len() as u8);
            der.extend(digits);
        }
    }
    content.iter().for_each(|part| der.extend(*part));
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_size_are_written_and_read() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let der = wrap(SEQUENCE, &[&content]);
            let (read, rest) = element(&der).unwrap();
            assert_eq!((read.content, read.whole, rest), (&*content, &*der, &[][..]), "{length}");
        }
    }

    #[test]
    fn what_is_cut_short_or_no_certificate_is_none() {
        for der in [&[][..], &[0x30], &[0x30, 5, 1], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x82, 1], &[0x30, 0]] {
            assert!(with_issuer(der, &[], |_| Ok::<_, ()>(Vec::new())).is_none(), "{der:?}");
        }
    }
}
