# shellcheck shell=bash disable=SC2034,SC2016
# Small programs that send and note, for suites that look at flows while something happens; sourced.

# A server that notes every line it gets, and a client that sends one every 5 ms for ever.
listen='use IO::Socket::INET; $|=1; my $s=IO::Socket::INET->new(LocalPort=>$ARGV[0],Listen=>1,ReuseAddr=>1) or die "listen: $!"; print "ready\n"; my $c=$s->accept; print while <$c>; print "closed\n"'
talk='use IO::Socket::INET; my $c=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>$ARGV[1],Timeout=>5) or die "connect: $!"; $c->autoflush(1); $SIG{PIPE}="IGNORE"; my $n=0; while(print $c $n++."\n"){select undef,undef,undef,0.005}'
hear='use IO::Socket::INET; $|=1; my $s=IO::Socket::INET->new(LocalPort=>$ARGV[0],Proto=>"udp") or die "bind: $!"; print "ready\n"; while(defined $s->recv(my $d,64)){print "heard\n"}'
# Every packet from a port of its own: each would open a flow.
flood='use IO::Socket::INET; for(;;){my $s=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>$ARGV[1],Proto=>"udp") or next; $s->send("x"); select undef,undef,undef,0.001}'
lines() { wc -l <"$1"; }
grows() { local before; before="$(lines "$1")"; within 10 eval "[ \"\$(wc -l <'$1')\" -gt $((before + 20)) ]"; }
