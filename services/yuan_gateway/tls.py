"""Certificates of the HTTP port that are replaced while it is open."""

import ssl

from yuan_rpc.security import Tls, server_credentials


def renew(context: ssl.SSLContext, tls: Tls) -> None:
    """Lets files of TLS that are replaced hold from the next connection on.

    Args:
        context: that the port was opened with.
        tls: its files.
    """

    def read() -> ssl.SSLContext:
        server_credentials(tls)  # says which file is wrong
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.load_cert_chain(str(tls.certificate), str(tls.key))
        if tls.client_authority is not None:
            fresh.verify_mode = ssl.CERT_REQUIRED
            fresh.load_verify_locations(tls.client_authority)
        return fresh

    watched = tls.watched(read)

    def change(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL asks in every handshake, whether or not the client names a host.
        connection.context = watched.get()

    context.sni_callback = change
