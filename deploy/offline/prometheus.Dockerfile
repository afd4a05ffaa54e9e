# Debian's Prometheus and the libraries it is linked with, nothing else. Context: the package's usr/bin.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE} AS tree
COPY prometheus promtool /tree/usr/bin/
RUN ldd /tree/usr/bin/prometheus /tree/usr/bin/promtool | grep -o '/lib[^ ]*' | sort -u \
      | while read -r library; do cp --parents --dereference "$library" /tree; done \
 && mkdir -p /tree/prometheus /tree/tmp /tree/etc/prometheus \
 && chown 65534:65534 /tree/prometheus \
 && printf 'nobody:x:65534:65534:nobody:/:/\n' > /tree/etc/passwd \
 && printf 'hosts: files dns\n' > /tree/etc/nsswitch.conf

FROM scratch
COPY --from=tree /tree /
ENV PATH=/usr/bin
USER 65534:65534
CMD ["prometheus"]
